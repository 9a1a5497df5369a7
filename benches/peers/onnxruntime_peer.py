"""ONNX Runtime as a peer: forward passes of exported networks, requested on stdin as for PyTorch."""

import json
import sys
import time

import numpy as np
import onnxruntime

SESSIONS = {}


def forward(file, runs, threads):
    if file not in SESSIONS:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin between runs would take the cores of the program that is measured next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        SESSIONS[file] = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    session = SESSIONS[file]
    shape = session.get_inputs()[0].shape
    feed = {
        "x": np.random.randn(*shape).astype(np.float32),
        "t": np.random.randint(0, 1000, shape[0]).astype(np.int64),
    }
    session.run(None, feed)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return {"seconds": times}


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        request.pop("do")
        print(json.dumps(forward(threads=int(sys.argv[1]), **request)), flush=True)
