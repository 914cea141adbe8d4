"""The challenge's zip."""
import json
import zipfile

import numpy as np

from ..core import hdf5
from ..core.files import atomic
from ..core.checks import InputError, array
from ..core.params import TEST
from .report import bars, maps_of


def write(path, out):
    """Write the challenge's zip from the test maps of a posterior; equal posteriors give equal bytes.

    path: posterior.h5; out: the zip, holding result.json = {"means": [[Omega_m, S_8], ...],
    "errorbars": [[...], ...]} in the order of the test maps. Returns the number of maps. Raises
    InputError without test maps, if one is missing or twice there, or if the file is a shard.
    """
    file = hdf5.read(path, "posterior", groups=("summary", "observed_data"))
    split, _, realisation, summary = maps_of(file)
    shard = file.settings.get("shard")
    if shard is not None and list(shard)[-1] != 1:
        raise InputError(f"{path}: is shard {shard[0]} of {shard[1]}, a submission needs all test maps; "
                         "merge the shards first")
    test = np.flatnonzero(split == TEST)
    if not test.size:
        raise InputError(f"{path}: holds no test maps, a submission needs them; run with --target test")
    test = test[np.argsort(realisation[test], kind="stable")]
    if not np.array_equal(realisation[test], np.arange(len(test))):
        raise InputError(f"{path}: expected test maps 0 to {realisation[test].max()} once each, got "
                         f"{len(test)}; run with --target test on the whole set")
    content = {}
    for key, name in (("means", "mean"), ("errorbars", bars(summary))):
        values = array(f"{path}: summary/{name} of the test maps", summary[name][test], (None, 2),
                       advice="the sampler failed for this map")
        if key == "errorbars" and (values <= 0).any():
            raise InputError(f"{path}: expected error bars above 0, got {values.min()}; the sampler failed")
        content[key] = values.tolist()
    with atomic(out) as part:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            info = zipfile.ZipInfo("result.json", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, json.dumps(content))
    return len(test)
