"""Many runs, planned and carried out in this process or on the workers of a Ray cluster."""
