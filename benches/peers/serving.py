"""How a peer talks with its bench: a JSON object a line, requests on stdin, answers on stdout.

A request names its command; whatever the handler returns is the answer, and `{"error": …}` where it fails.
"""
import json
import os
import sys


def serve(name, handlers):
    # Libraries print; nothing of that may get between the answers.
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
    """The only answer of a peer that can't import what it needs."""
    print(json.dumps({'error': str(error)}), flush=True)
    sys.exit(0)
