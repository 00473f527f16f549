from .ray_cluster import RayConfig as RayConfig
from .shared_folder import SharedFolder as SharedFolder
