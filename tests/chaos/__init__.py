"""Real workers, a real server and real clients, while faults are injected; and the checker of what the clients saw.

Pure: `history` (what was recorded, and which promises it breaks), `figures` (how bad it was), `orders`, `frames`. Instruments: `proxy` with
`pipe`, `server`, `clock`, `hosts`, `disks`, `ports`. Processes: `clients`, `service`, `trainer` (`publisher`: the director's end of it).
`stand` puts them together; `faults_*` are what happens to them, `measures` what has to stay within a limit; `campaign` decides what
happens when; `guarantees` writes docs/guarantees.md from what was measured.
"""
