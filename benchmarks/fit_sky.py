"""Fit the simulator's settings to real spectra whose truth is known: the defaults of theory.Sky.

    python benchmarks/fit_sky.py DIR

DIR holds kit_spectra.npz (noisy spectra of maps with their labels, see validate/spectra.py),
label.npy of the training set and the survey's mask. Source shift, stellar boost, tilt of the
non-linear power and the mean white scatter are fitted by least squares to half of the realisations,
each predicted at its own nuisances through the mask's window without drawing a map, and to the in-
mask standard deviation of the noiseless training maps, 0.01137. Ten realisations may have more or
less power than the mean in all bins and all cosmologies, as these share their seeds: an amplitude
of the half is fitted along, with the error that the residuals say. The other half checks the fit;
then the halves change places, and each realisation is compared with the fit that has not seen it.
Realisations 0, 1 of every four are fitted, 2, 3 check: nuisances follow a low-discrepancy sequence,
in which every even one has an f_0 in the upper half of its range. The settings of log-normal maps
that decide the scatter between realisations, and their third moments, are compared on drawn maps of
all realisations.
"""
import argparse
import pathlib
import sys

import numpy as np
from scipy.optimize import least_squares

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from wl.simulate.plan import SimulationOptions  # noqa: E402
from wl.simulate.theory import PUBLISHED  # noqa: E402
from wl.validate.spectra import SIGNAL_FLOOR, compare, read_spectra  # noqa: E402
from wl.validate.spectra import regress, simulate, table  # noqa: E402
from wl.maps.dataset import MASK_FILE, read_label, read_mask  # noqa: E402

RMS, RMS_ERROR = 0.01137, 0.005       # of the training maps behind the mask; allowed relative error
NAMES = ("source_shift", "stellar_boost", "nonlinear_tilt", "pixel_scatter")
UNIT = np.array([0.01, 1.0, 0.1, 1e-5])


def with_settings(values):
    """The options whose fitted settings have these values, in UNIT."""
    return SimulationOptions(**dict(zip(NAMES, map(float, values * UNIT))))


def fit(survey, part, label):
    """Fitted values (in UNIT), their errors, chi2, number of data; label: of the design."""
    signal = part.power - part.survey.noise
    residual = regress(signal, part.label, SIGNAL_FLOOR * part.survey.noise)[2]
    dof, n = signal.shape[1] - 4, signal.shape[1]
    error = np.sqrt(np.sum(residual**2, axis=(0, 1)) / (len(signal) * dof))
    error = error * signal.mean(axis=1, keepdims=True)
    common = np.sqrt(np.sum(residual.mean(axis=(0, 2))**2) / (dof * n))
    print(f"error of the power that all cosmologies and bins share: {common:.3f}")

    def rest(values):
        *values, shared = values
        field = with_settings(np.array(values))
        off = ((1.0 + shared) * survey.expected(part.label, field) - signal) / error
        rms = (survey.rms(label, field) / RMS - 1.0) / RMS_ERROR
        return np.append(off.ravel(), [rms, shared / common])

    found = least_squares(rest, [-3.0, 2.0, -2.0, 2.0, 0.01], diff_step=1e-2, xtol=1e-4)
    error = np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac)))
    return found.x[:-1], error[:-1], 2.0 * found.cost, len(found.fun)


def some(spectra, which):
    """Spectra of the chosen realisations."""
    return spectra._replace(power=spectra.power[:, which], label=spectra.label[:, which])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=pathlib.Path, metavar="DIR", help="folder of the real files")
    add("--repeats", type=int, default=8, help="maps drawn of each real one (default 8)")
    options = parser.parse_args()
    mask, label = read_mask(options.folder / MASK_FILE), read_label(options.folder / "label.npy")
    real = read_spectra(options.folder / "kit_spectra.npz", mask)
    survey, number = real.survey, np.arange(real.power.shape[1])
    halves = {"fit": number % 4 < 2, "check": number % 4 >= 2, "all": number >= 0}
    unseen = np.empty(real.power.shape)
    for fitted, checked in (("check", "fit"), ("fit", "check")):
        values, error, chi2, n = fit(survey, some(real, halves[fitted]), label)
        unseen[:, halves[checked]] = survey.expected(real.label, with_settings(values))[
            :, halves[checked]]
        print(f"fitted to the half \"{fitted}\": chi2 = {chi2:.1f} for {n} data less "
              f"{len(NAMES) + 1} numbers; defaults in brackets")
        for name, value, one, unit in zip(NAMES, values, error, UNIT):
            default = getattr(SimulationOptions(), name)
            print(f"    {name:16s}{value * unit:12.4g} +- {one * unit:.2g}   [{default:g}]")
    published = SimulationOptions(**PUBLISHED._asdict(), pixel_scatter=0.0)
    for name, field in (("as fitted", with_settings(values)), ("defaults", SimulationOptions()),
                        ("as published", published)):
        print(f"in-mask rms over the design, {name}: {survey.rms(label, field):.5f} (real {RMS})")
    expected = survey.expected(real.label, SimulationOptions())
    drawn = simulate(survey, real.label, SimulationOptions(), options.repeats)
    for name, half in halves.items():
        part = some(real, half)
        print(f"\n{name}, {half.sum()} realisations, defaults\n"
              + table(compare(part, expected[:, half], drawn[:, :, half]), part.label))
    print("\neach realisation by the fit to the other half\n"
          + table(compare(real, unseen, drawn), real.label))
    print("\nscatter of log10 P, simulated / real, all realisations")
    for below, factor in ((0.0, 1.0), (0.0, 0.85), (20.0, 0.85), (40.0, 0.85), (80.0, 0.85)):
        field = SimulationOptions(gaussian_below=below, lambda_factor=factor)
        drawn = simulate(survey, real.label, field, options.repeats)
        found = compare(real, expected, drawn)["scatter"]
        print(f"    gaussian_below {below:5.0f}, lambda_factor {factor:4.2f}:"
              + "".join(f"{v:6.2f}" for v in found))


if __name__ == "__main__":
    main()
