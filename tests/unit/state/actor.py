"""A process of the tests: opens a state file and does what its standard input says, one answer a line.

python actor.py STATE FLOW RUN TTL
"""

import os
import resource
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from sqlalchemy import update

from dsync.protocol.errors import DsyncError
from dsync.state import CheckpointRow, Lease, LeaseHeldError, Store, this_process
from dsync.state.migrations import upgrade
from dsync.state.schema import checkpoints


def main() -> None:
    path, flow, run, ttl_s = sys.argv[1:5]
    store = Store.open(path)
    holder = this_process()
    lease: Lease | None = None
    seq = 0
    print("ready", flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        try:
            if word == "acquire":
                lease = store.acquire_lease(flow, holder, ttl_s=float(ttl_s))
                answer = f"held {lease.fence}"
            elif word == "renew":
                assert lease is not None
                store.renew_lease(lease)
                answer = "renewed"
            elif word == "save":
                seq += 1
                store.save_checkpoint(flow, run, CheckpointRow(unit=rest[0], seq=seq, rows=seq))
                answer = f"saved {seq}"
            elif word == "write-for-ever":
                write_for_ever(store, flow, run, start=int(rest[0]))
            elif word == "stop-in-the-middle":
                with store._writing(flow) as connection:
                    connection.execute(update(checkpoints).values(seq=checkpoints.c.seq + 1))
                    os.kill(os.getpid(), signal.SIGSTOP)
                answer = "went on"
            elif word == "stop-while-migrating":
                vars(upgrade)["make"] = lambda connection: os.kill(os.getpid(), signal.SIGSTOP)
                Store.open(rest[0])
                answer = "went on"
            elif word == "limit-files":
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(rest[0]), resource.RLIM_INFINITY))
                answer = "limited"
            elif word == "no-limit":
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                answer = "unlimited"
            else:
                raise ValueError(f"unknown word {word}")
        except LeaseHeldError as exc:
            answer = f"refused {exc.pid} {exc.here}"
        except DsyncError as exc:
            answer = type(exc).__name__
        print(answer, flush=True)


def write_for_ever(store: Store, flow: str, run: str, start: int) -> None:
    """Move all units together, and say so after each commit, until killed."""
    units = [unit.unit for unit in store.load_units(flow, run) if unit.partition]
    seq = start
    while True:
        seq += 1
        store.save_checkpoints(
            flow, run, [CheckpointRow(unit=unit, seq=seq, rows=seq, cursor=b"c" * (seq % 3000)) for unit in units]
        )
        print(seq, flush=True)


if __name__ == "__main__":
    main()
