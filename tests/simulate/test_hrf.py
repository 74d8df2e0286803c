import numpy as np
import pytest

from neuroalign.simulate.hrf import STEP_S, convolve, response


@pytest.mark.parametrize("delay", [4.0, 4.5, 5.5, 7.0, 8.0])
def test_the_response_peaks_at_its_delay(delay):
    fine = response(delay, step_s=0.001)
    assert np.argmax(fine) * 0.001 == pytest.approx(delay, abs=0.002)
    assert fine.sum() == pytest.approx(1)


def test_the_response_has_an_undershoot_and_a_width_near_five_seconds():
    fine = response(5.5, step_s=0.01) / response(5.5, step_s=0.01).max()
    width = (fine > 0.5).sum() * 0.01
    assert 4.5 < width < 5.7
    assert -0.3 < fine.min() < -0.05
    assert 12 < np.argmin(fine) * 0.01 < 20


def test_convolution_matches_the_naive_one():
    rng = np.random.default_rng(0)
    neural = rng.standard_normal((400, 3))
    neural[0] = 0
    naive = np.stack([np.convolve(column, response(5.0))[:400] for column in neural.T], axis=1)
    np.testing.assert_allclose(convolve(neural, 5.0), naive, atol=1e-10)


def test_a_constant_stays_constant_and_an_impulse_peaks_on_time():
    np.testing.assert_allclose(convolve(np.full((100, 1), 2.0), 6.0), 2.0)
    impulse = np.zeros((600, 1))
    impulse[100] = 1
    assert (np.argmax(convolve(impulse, 6.0)) - 100) * STEP_S == pytest.approx(6.0, abs=STEP_S)
