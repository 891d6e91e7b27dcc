"""A whole program that embeds edgediff: drawn on a worker thread, with progress, from any folder."""

import sys
import threading

import edgediff


def draw(prompt: str, path: str) -> None:
    with edgediff.load() as pipe:
        for step in pipe.stream(prompt, seed=0):
            print(f"step {step.i + 1}", flush=True)
        pipe.decode(step.x)[0].save(path)


if __name__ == "__main__":
    worker = threading.Thread(target=draw, args=sys.argv[1:3])
    worker.start()
    worker.join()
