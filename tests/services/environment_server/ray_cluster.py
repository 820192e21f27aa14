"""A Ray cluster of two nodes on this machine, as a program: prints its address, loses a node at every line that it reads.

python ray_cluster.py      address, then "lost" for each line; ends at the end of its input
"""

# ruff: noqa: T201

import os
import sys

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_enable_metrics_collection="0",
    RAY_agent_register_timeout_ms="600000",
    RAY_DISABLE_IMPORT_WARNING="1",
)

ATTEMPTS = 3  # a node gives its helpers 15 seconds to start, which is little on a busy machine
HEALTH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5, "health_check_initial_delay_ms": 1000}
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


def main() -> None:
    from ray.cluster_utils import Cluster

    for attempt in range(ATTEMPTS):
        cluster = Cluster()
        try:
            cluster.add_node(**NODE, _system_config=HEALTH)
            second = cluster.add_node(**NODE)
            break
        except Exception as error:
            cluster.shutdown()
            if attempt + 1 == ATTEMPTS:
                raise
            print(f"again: {error}", file=sys.stderr)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        print("lost", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
