"""Metrics of reconstructed pictures against the published model's."""

import numpy as np

from mindeye_dist.evaluation.image_metrics import pixcorr, ssim, two_way

TOLERANCE = {"rtol": 0, "atol": 1e-5}


def test_pixcorr_and_ssim(reference):
    vectors, _ = reference("metrics")
    seen, recon = (vectors[key].numpy() / 255 for key in ("real", "recon"))
    np.testing.assert_allclose(pixcorr(seen, recon), vectors["pixcorr"].numpy(), **TOLERANCE)
    np.testing.assert_allclose(ssim(seen, recon), vectors["ssim"].numpy(), **TOLERANCE)


def test_two_way(reference):
    vectors, _ = reference("metrics")
    shares = two_way(vectors["feat_real"].numpy(), vectors["feat_recon"].numpy())
    counts = vectors["two_way_counts"].numpy()
    np.testing.assert_allclose(shares * (len(shares) - 1), counts, **TOLERANCE)
    np.testing.assert_allclose(shares.mean(), vectors["two_way"].numpy()[0], **TOLERANCE)
