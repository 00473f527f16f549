"""Many runs, and scans larger than one machine: in this process, or on the workers of a Ray cluster."""
