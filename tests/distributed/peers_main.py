"""What ranks say to each other, in all ways; prints what this rank heard."""

import mlx_simul  # noqa: F401  # before MLX, which then gets a fast BLAS

# isort: split
import json
import math
import sys

import mlx.core as mx

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.peers import Peers, checksum

told = json.loads(sys.argv[1])
peers = Peers(mx.distributed.init())
heard = {"rank": peers.rank, "size": peers.size}
heard["share"] = list(peers.share(range(told["n_items"])))
# Longer on one rank than on another, empty on rank 0, and not in ASCII.
heard["texts"] = peers.gather("é猫" * peers.rank)
heard["lengths"] = [len(text) for text in peers.gather("x" * (peers.rank * told["length"]))]
heard["plain"] = peers.gather([peers.rank, None, {"a": 0.1 + peers.rank}])
heard["nan"] = [math.isnan(each) for each in peers.gather(math.nan)]
tree = {"a": mx.full((3,), float(peers.rank)), "b": [mx.array([[2.0 * peers.rank]])]}
average = peers.average(tree)
heard["average"] = [average["a"].tolist(), average["b"][0].tolist()]
heard["checksums"] = peers.gather(checksum(tree))
peers.require_same({"one": 1, "two": [1, 2]})
try:
    peers.require_same({"one": 1, "two": min(peers.rank, 1)})
    heard["refused"] = None
except InvalidOptionError as error:
    heard["refused"] = str(error)
print(json.dumps(heard))
