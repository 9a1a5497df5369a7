"""PyTorch as a peer: reads requests from stdin, one JSON object per line, and answers with seconds.

Runs in the peers' environment. Networks are kept, so that only the first request for one pays for its making;
every request warms up once where that is cheap, and only what it is asked for is timed.
"""

import json
import resource
import sys
import time
import warnings

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from performer_pytorch import FastAttention

warnings.filterwarnings("ignore")
NETWORKS = {}


def network(config):
    if config not in NETWORKS:
        torch.manual_seed(0)
        model = UNet2DModel.from_config(json.load(open(config)))
        NETWORKS[config] = model, torch.optim.Adam(model.parameters(), lr=2e-4)
    return NETWORKS[config]


def images(model, batch):
    size = model.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, model.config.in_channels, height, width), torch.randint(0, 1000, (batch,))


def timed(f, runs, warm=1):
    """The seconds of each run; those that warm up do not count."""
    for _ in range(warm):
        f()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return times


def train(config, batch, runs, warm=1):
    """Steps as Algorithm 1 has them, with clipping and Adam; the data are noise."""
    model, optimizer = network(config)
    model.train()
    x, t = images(model, batch)

    def step():
        eps = torch.randn_like(x)
        loss = F.mse_loss(model(x, t).sample, eps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return {
        "seconds": timed(step, runs, warm),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def forward(config, batch, runs):
    model, _ = network(config)
    model.eval()
    x, t = images(model, batch)
    with torch.no_grad():
        return {"seconds": timed(lambda: model(x, t), runs)}


def sample(config, batch, steps, total):
    """The first `steps` of DDIM's `total`."""
    model, _ = network(config)
    model.eval()
    scheduler = DDIMScheduler(1000, clip_sample=True)
    scheduler.set_timesteps(total)
    x, t = images(model, batch)
    with torch.no_grad():
        model(x, t)
        start = time.perf_counter()
        for t in scheduler.timesteps[:steps]:
            x = scheduler.step(model(x, t).sample, t, x).prev_sample
        return {"seconds": time.perf_counter() - start}


def attention(tokens, batch, heads, dim, features, runs, warm):
    """FAVOR+ and softmax attention on [batch, heads, tokens, dim]: milliseconds, forward and forward with
    backward."""
    q, k, v = (torch.randn(batch, heads, tokens, dim, requires_grad=True) for _ in range(3))
    d_out = torch.randn(batch, heads, tokens, dim)
    favor = FastAttention(dim, nb_features=features)
    answer = {}
    for name, f in (("favor", favor), ("softmax", F.scaled_dot_product_attention)):
        with torch.no_grad():
            answer[name + "_forward_ms"] = [1e3 * s for s in timed(lambda: f(q, k, v), runs, warm)]
        both = timed(lambda: torch.autograd.grad(f(q, k, v), (q, k, v), d_out), runs, warm)
        answer[name + "_forward_backward_ms"] = [1e3 * s for s in both]
    return answer


def export(config, batch, file):
    """The network as ONNX, for ONNX Runtime."""

    class Denoiser(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x, t):
            return self.model(x, t).sample

    model, _ = network(config)
    names = {"input_names": ["x", "t"], "output_names": ["eps"], "dynamo": False}
    torch.onnx.export(Denoiser(model.eval()), images(model, batch), file, **names)
    return {}


def save(config, folder):
    """The network as a pipeline's folder, as diffusers writes it."""
    DDPMPipeline(network(config)[0], DDPMScheduler(1000)).save_pretrained(folder)
    return {}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    # Only answers go to the real stdout.
    answers, sys.stdout = sys.stdout, sys.stderr
    asked = {f.__name__: f for f in (train, forward, sample, attention, export, save)}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(asked[request.pop("do")](**request)), file=answers, flush=True)
