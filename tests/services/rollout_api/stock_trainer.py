"""The loop of Atropos's example trainer without its model: registers, takes batches, prints what it got.

`stock_trainer.py SITE_PACKAGES URL BATCHES`, run by natgym's interpreter: it has torch. Each line is one batch: the
shapes of tokens, labels and logprobs, and the first token of every sequence.
"""

import json
import sys

sys.path.append(sys.argv[1])

from example_trainer.api import check_atropos_api, register_trainer
from example_trainer.config import TrainingConfig
from example_trainer.data import get_data

_, _, url, wanted = sys.argv
assert check_atropos_api(url)
config = TrainingConfig(model_name="none", atropos_url=url, batch_size=8, gradient_accumulation_steps=1, seq_len=64)
register_trainer(config)
seen = 0
while seen < int(wanted):
    batches, _ = get_data(config.batch_size, config.seq_len, url, extract_inference_logprobs=True)
    for tokens, labels, _, _, logprobs in batches:
        shapes = [list(one.shape) for one in (tokens[0], labels[0], logprobs[0])]
        found = {"shapes": shapes, "first": [row[0].item() for row in tokens[0]]}
        sys.stdout.write(f"batch {json.dumps(found)}\n")
        sys.stdout.flush()
        seen += 1
