"""Posteriors in the form that others read: the challenge's zip."""
import json
import zipfile

import numpy as np

from ..core import hdf5
from ..core.checks import InputError, array
from ..core.files import atomic
from ..core.params import TEST
from .report import bars, maps_of


def submit(path, out) -> int:
    """Write the challenge's zip; equal posteriors give equal bytes.

    path: str or Path, posterior.h5
    out: str or Path, the zip with result.json = {"means": [[Omega_m, S_8], ...], "errorbars":
        [[...], ...]} in the order of the test maps
    Returns the number of maps. Raises InputError without test maps, if one is missing or twice
    there, or if the file is a shard.
    """
    file = hdf5.read(path, "posterior", groups=("summary", "observed_data"))
    split, _, realisation, summary = maps_of(file)
    shard = file.settings.get("shard")
    if shard is not None and list(shard)[-1] != 1:
        raise InputError(f"{path}: is shard {shard[0]} of {shard[1]}, a submission needs all test "
                         "maps; merge the shards first")
    test = np.flatnonzero(split == TEST)
    if not test.size:
        raise InputError(f"{path}: holds no test maps, a submission needs them; run with --target "
                         "test")
    test = test[np.argsort(realisation[test], kind="stable")]
    if not np.array_equal(realisation[test], np.arange(len(test))):
        raise InputError(f"{path}: expected test maps 0 to {realisation[test].max()} once each, "
                         f"got {len(test)}; run with --target test on the whole set")
    failed = "the sampler failed for this map"
    mean, sd = (array(f"{path}: summary/{name} of the test maps", summary[name][test], (None, 2),
                      advice=failed) for name in ("mean", bars(summary)))
    if (sd <= 0).any():
        raise InputError(f"{path}: expected error bars above 0, got {sd.min()}; {failed}")
    with atomic(out) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("result.json", date_time=(1980, 1, 1, 0, 0, 0))
        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        content = {"means": mean.tolist(), "errorbars": sd.tolist()}
        archive.writestr(info, json.dumps(content))
    return len(test)
