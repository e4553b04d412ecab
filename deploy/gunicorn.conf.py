"""gunicorn for the ready-made evaluator: `gunicorn -c deploy/gunicorn.conf.py genlock.worker.app:app`.

The hooks load the models before a worker takes requests, leave the fleet at exit, and report a dead worker at once. Threads of torch are
kept to one in each worker: several workers on one machine share its cores, and a request is small.
"""

import os

from genlock.worker.hooks import *  # noqa: F403

bind = os.environ.get("BIND", "0.0.0.0:8000")
workers = int(os.environ.get("WEB_CONCURRENCY", "4"))
worker_class = "gthread"
threads = 2
timeout = 60
graceful_timeout = 30
# A worker touches a file in it all the while, and would wait for a disk that somebody flushes.
worker_tmp_dir = "/dev/shm"
raw_env = [f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '1')}"]
