"""Guidance at its fixed points, and against the equations as written."""

import torch

from inference.guidance import cfg, dual_cfg, dual_weights


def test_cfg_at_zero_and_one_is_one_of_its_terms() -> None:
    uncond, cond = torch.randn(2, 3, 4)
    assert torch.equal(cfg(uncond, cond, 0), uncond)
    torch.testing.assert_close(cfg(uncond, cond, 1), cond)


def test_dual_cfg_at_one_and_one_is_the_conditional_prediction() -> None:
    uncond, image_only, full = torch.randn(3, 2, 4)
    assert torch.equal(dual_cfg(uncond, image_only, full, text_scale=1, image_scale=1), full)


def test_dual_cfg_is_the_papers_equation() -> None:
    uncond, image_only, full = torch.randn(3, 2, 4, dtype=torch.float64)
    for text, image in [(7.5, 1.5), (4, 0.5), (0, 0), (1, 2), (-1, 3)]:
        expected = uncond + image * (image_only - uncond) + text * (full - image_only)
        found = dual_cfg(uncond, image_only, full, text_scale=text, image_scale=image)
        torch.testing.assert_close(found, expected)


def test_dual_cfg_without_image_guidance_is_cfg() -> None:
    _, image_only, full = torch.randn(3, 2, 4, dtype=torch.float64)
    found = dual_cfg(torch.zeros(2, 4), image_only, full, text_scale=5, image_scale=1)
    torch.testing.assert_close(found, cfg(image_only, full, 5))


def test_weights_sum_to_one() -> None:
    assert sum(dual_weights(7.5, 1.5)) == 1
    assert dual_weights(1, 1) == (1, 0, 0)
