"""The `dsync` command with a spool that is soon full: a script for child processes, run in the command's place."""

from __future__ import annotations

import functools

from dsync.cli.main import main
from dsync.spool import Spool

LIMIT_BYTES = 3 << 20
SEGMENT_BYTES = 1 << 20

if __name__ == "__main__":
    _open = Spool.open

    @functools.wraps(_open)
    async def _open_small(*arguments: object, **options: object) -> Spool:
        return await _open(*arguments, **{**options, "limit_bytes": LIMIT_BYTES, "segment_bytes": SEGMENT_BYTES})  # type: ignore[arg-type]

    Spool.open = _open_small  # type: ignore[method-assign]
    main()
