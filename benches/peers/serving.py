"""The protocol between a peer and its bench: one JSON object per line, requests on stdin, replies on stdout.

A request names its command. The reply is what the handler returns, or `{"error": …}` if it fails.
"""
import json
import os
import sys


def serve(name, handlers):
    # Libraries may print to stdout. That output goes to stderr, so that it does not mix with the replies.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(reply):
        print(json.dumps(reply), file=answers, flush=True)

    answer({'peer': name})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(handlers[request.pop('command')](**request))
        except Exception as error:
            answer({'error': f'{type(error).__name__}: {error}'})


def missing(error):
    """The only reply of a peer that can't import a package."""
    print(json.dumps({'error': str(error)}), flush=True)
    sys.exit(0)
