"""What the pages show is what the code does.

::

    pages      the pages, and every fenced block of them                     pure
    console    the lines of a console block, and what is known of each program
    shelf      what a line of `genlock` finds when it runs: a fleet with models, a worker, files
    warm       a process that has imported torch, and runs each Python block in a child of its own
    reference  the pages that are written by a command: HTTP, command line, configuration

Which languages there are, and what becomes of a block of each: LANGUAGES in test_blocks.
"""
