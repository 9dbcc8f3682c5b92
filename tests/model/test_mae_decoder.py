"""The decoder: which patches it reconstructs, what they may depend on, what that costs, and files from before."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from pocketvit.cli import main
from pocketvit.config import ModelConfig
from pocketvit.evaluation.reconstruct import reconstruct_images
from pocketvit.model import MAEOutput, MaskedAutoencoder, WeightsMeta, patchify, random_mask
from pocketvit.model.costs import costs
from pocketvit.model.patches import sample_hidden, select
from pocketvit.model.vit import Attention
from pocketvit.model.weights import load, save

KINDS = ["self", "cross"]
SIZES: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "patch": 2}
SIZES |= {"decoder_width": 12, "decoder_depth": 2, "decoder_heads": 3}
SHAPE, PATCHES = (8, 6, 3), 12
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def model(kind: Any, discount: float = 0.1) -> MaskedAutoencoder:
    """A small masked autoencoder with no parameter at a special value."""
    torch.manual_seed(0)
    mae = MaskedAutoencoder(ModelConfig(**SIZES, decoder_attention=kind), SHAPE, discount)
    with torch.no_grad():
        for parameter in mae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return mae


def batch(size: int = 5, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images and the noise that masks them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, SHAPE[2], *SHAPE[:2], generator=generator)
    return images, torch.rand(size, PATCHES, generator=generator)


def straight(mae: MaskedAutoencoder, images: Tensor, noise: Tensor, hidden: Tensor | None = None) -> Tensor:
    """He et al.'s decoder written out: all patches in order or, with `hidden`, the visible ones and then those."""
    visible, _ = random_mask(noise, 0.75)
    x = mae.decoder_embed(mae.encoder.encode(images, visible))
    pos = mae.decoder_pos_embed.expand(len(x), -1, -1)
    if hidden is None:
        tokens = mae.mask_token.repeat(len(x), PATCHES, 1)
        for image, (places, values) in enumerate(zip(visible, x[:, 1:], strict=True)):
            tokens[image, places] = values
        x = torch.cat([x[:, :1], tokens], dim=1) + pos
    else:
        masked = mae.mask_token.repeat(len(x), hidden.shape[1], 1)
        first = torch.zeros(len(x), 1, dtype=torch.int64)
        x = torch.cat([x, masked], dim=1) + select(pos, torch.cat([first, visible + 1, hidden + 1], dim=1))
    for block in mae.decoder_blocks:
        x = block(x)
    return mae.decoder_pred(mae.decoder_norm(x))[:, 1:]


def errors(images: Tensor, prediction: Tensor, patches: Tensor) -> Tensor:
    """Mean squared error of the prediction of each of `patches`."""
    return (prediction - select(patchify(images, 2), patches)).square().mean(dim=-1)


# 0.999 of the nine hidden patches are nine: all of them, but chosen one by one.
@pytest.mark.parametrize("share", [None, 0.999, 1.0])
def test_decoding_everything_is_the_plain_decoder_bit_for_bit(share: float | None) -> None:
    mae, (images, noise) = model("self"), batch()
    out = mae(images, 0.75, noise, share)
    out.loss.backward()
    found = {name: parameter.grad for name, parameter in mae.named_parameters()}
    mae.zero_grad()
    prediction = straight(mae, images, noise)
    error, (_, mask) = (prediction - patchify(images, 2)).square().mean(dim=-1), random_mask(noise, 0.75)
    loss = (error * mask).sum() / mask.sum() + 0.1 * ((error * ~mask).sum() / (~mask).sum())
    loss.backward()
    assert torch.equal(out.prediction, prediction)
    assert torch.equal(out.mask, mask)
    assert torch.equal(out.loss, loss)
    for name, parameter in mae.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, **CLOSE)


def test_self_attention_sees_the_visible_and_the_sampled_patches_only() -> None:
    mae, (images, noise) = model("self"), batch()
    visible, mask = random_mask(noise, 0.75)
    hidden = sample_hidden(noise, visible, 0.5)
    out, expected = mae(images, 0.75, noise, 0.5), straight(mae, images, noise, hidden)
    assert torch.equal(out.decoded, torch.cat([visible, hidden], dim=1).sort(dim=1).values)
    order = torch.cat([visible, hidden], dim=1).argsort(dim=1)
    torch.testing.assert_close(out.prediction, select(expected, order), **CLOSE)
    seen = visible.shape[1]
    torch.testing.assert_close(out.visible_loss, errors(images, expected[:, :seen], visible).mean(), **CLOSE)
    torch.testing.assert_close(out.masked_loss, errors(images, expected[:, seen:], hidden).mean(), **CLOSE)
    torch.testing.assert_close(out.loss, out.masked_loss + 0.1 * out.visible_loss, **CLOSE)
    # Its tokens are not independent: fewer of them predict something else.
    whole = mae(images, 0.75, noise)
    assert torch.equal(whole.mask, mask)
    assert not torch.allclose(out.prediction, select(whole.prediction, out.decoded), atol=1e-3)


@settings(deadline=None)
@given(
    share=st.floats(0.01, 1),
    mask_ratio=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    discount=st.sampled_from([0.0, 0.1]),
)
def test_by_cross_attention_a_prediction_does_not_depend_on_the_others(
    share: float, mask_ratio: float, seed: int, discount: float
) -> None:
    mae, (images, noise) = model("cross", discount), batch(3, seed)
    with torch.no_grad():
        whole, some = mae(images, mask_ratio, noise), mae(images, mask_ratio, noise, share)
    assert whole.decoded is None
    assert torch.equal(some.mask, whole.mask)
    decoded = torch.arange(PATCHES).expand(3, -1) if some.decoded is None else some.decoded
    torch.testing.assert_close(some.prediction, select(whole.prediction, decoded), **CLOSE)
    error, hidden = errors(images, some.prediction, decoded), some.mask.gather(1, decoded)
    for loss, chosen in ((some.masked_loss, hidden), (some.visible_loss, ~hidden)):
        torch.testing.assert_close(loss, error[chosen].mean() if chosen.any() else torch.zeros(()), **CLOSE)
    torch.testing.assert_close(some.loss, some.masked_loss + discount * some.visible_loss, **CLOSE)


def test_the_loss_of_a_sample_is_that_of_all_hidden_patches_on_average() -> None:
    """Over every choice of one hidden patch, by cross-attention: the noise's order among them decides which."""
    mae, (images, noise) = model("cross"), batch(1)
    visible, mask = random_mask(noise, 0.75)
    losses = []
    with torch.no_grad():
        whole = mae(images, 0.75, noise)
        for patch in mask[0].nonzero().flatten():
            chosen = noise.clone()
            chosen[0, patch] = 2.0
            out = mae(images, 0.75, chosen, 0.01)
            assert torch.equal(out.decoded[0], torch.cat([visible[0], patch[None]]).sort().values)
            losses.append(out.masked_loss)
    torch.testing.assert_close(torch.stack(losses).mean(), whole.masked_loss, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_position_reaches(kind: str) -> None:
    """The decoder's position of a hidden patch reaches that patch alone by cross-attention, all of them by self."""
    mae, (images, noise) = model(kind), batch(1)
    patch = int(noise[0].argmax())
    with torch.no_grad():
        before = mae(images, 0.75, noise).prediction[0]
        mae.decoder_pos_embed[0, patch - PATCHES] += 1.0
        changed = (mae(images, 0.75, noise).prediction[0] != before).any(dim=-1)
    assert changed.nonzero().flatten().tolist() == ([patch] if kind == "cross" else list(range(PATCHES)))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_depend_on_visible_patches_alone(kind: str) -> None:
    mae, (images, noise) = model(kind), batch()
    images.requires_grad_()
    out = mae(images, 0.75, noise, 0.5)
    (gradient,) = torch.autograd.grad(out.prediction.square().sum(), images)
    reached = patchify(gradient, 2).ne(0).any(dim=-1)
    assert torch.equal(reached, ~out.mask)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("discount", [0.0, 0.1])
def test_gradients_reach_every_parameter(kind: str, discount: float) -> None:
    mae, (images, noise) = model(kind, discount), batch(16)
    mae(images, 0.75, noise, 0.25).loss.backward()
    for name, parameter in mae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    # Two of nine hidden patches an image: over the batch every position is decoded, and there is none to spare.
    assert (mae.decoder_pos_embed.grad.abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize(
    ("mask_ratio", "share", "visible", "hidden"),
    [(0.75, 1.0, 3, 9), (0.75, 0.25, 3, 2), (0.75, 0.001, 3, 1), (1.0, 0.5, 1, 6), (0.0, 0.5, 12, 0)],
)
def test_how_many_patches_are_decoded(mask_ratio: float, share: float, visible: int, hidden: int) -> None:
    images, noise = batch()
    for kind, discount in itertools.product(KINDS, (0.0, 0.1)):
        out = model(kind, discount)(images, mask_ratio, noise, share)
        expected = hidden if kind == "cross" and not discount else visible + hidden
        assert out.prediction.shape == (5, expected, 12)
        assert out.loss.isfinite()
        if out.decoded is None:
            assert expected == PATCHES
        else:
            assert out.decoded.shape == (5, expected)
            assert out.mask.gather(1, out.decoded).sum(dim=1).tolist() == [hidden] * 5


@settings(deadline=None)
@given(
    n=st.integers(1, 60),
    ratio=st.floats(0, 1),
    share=st.floats(0.001, 1),
    seed=st.integers(0, 2**32),
    ties=st.booleans(),
)
def test_a_sample_is_of_hidden_patches(n: int, ratio: float, share: float, seed: int, ties: bool) -> None:
    noise = torch.rand(4, n, generator=torch.Generator().manual_seed(seed))
    noise = noise.round(decimals=1) if ties else noise
    visible, mask = random_mask(noise, ratio)
    sample, hidden = sample_hidden(noise, visible, share), n - visible.shape[1]
    assert sample.dtype == torch.int64
    assert sample.shape == (4, min(hidden, max(1, round(hidden * share))))
    assert mask.gather(1, sample).all()
    assert (sample.diff(dim=1) > 0).all()


def test_a_sample_is_uniform_whatever_is_hidden() -> None:
    draws, n = 40_000, 10
    noise = torch.rand(draws, n, generator=torch.Generator().manual_seed(0))
    visible, mask = random_mask(noise, 0.6)
    sampled = torch.zeros(draws, n, dtype=torch.bool).scatter(1, sample_hidden(noise, visible, 0.5), True).double()
    seen = (~mask).double()
    apart = ~torch.eye(n, dtype=torch.bool)
    # 4 patches are visible, 3 of the 6 others sampled: how often one is, two are, and one is beside a visible one.
    for counts, probability in (
        (sampled.sum(dim=0), 3 / 10),
        ((sampled.T @ sampled)[apart], 3 / 10 * 2 / 9),
        ((seen.T @ sampled)[apart], 4 / 10 * 3 / 9),
    ):
        deviation = (draws * probability * (1 - probability)) ** 0.5
        assert (counts - draws * probability).abs().max() < 5 * deviation
        assert counts.std() > 0.2 * deviation  # counts of chance, rather than of a fixed rotation


def test_each_draw_samples_anew() -> None:
    mae, (images, _) = model("cross", 0.0), batch(1)
    torch.manual_seed(0)
    found = {tuple(mae(images, 0.75, None, 0.1).decoded[0].tolist()) for _ in range(300)}
    assert found == {(patch,) for patch in range(PATCHES)}


def test_attention_to_a_context_agrees_with_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    for name in ("weight", "bias"):
        getattr(theirs, f"in_proj_{name}").data.copy_(getattr(ours.qkv, name).data.normal_())
        getattr(theirs.out_proj, name).data.copy_(getattr(ours.proj, name).data.normal_())
    x, context = torch.randn(2, 7, 12), torch.randn(2, 4, 12)
    torch.testing.assert_close(ours(x, context), theirs(x, context, context)[0], **CLOSE)
    torch.testing.assert_close(ours(x, x), ours(x), **CLOSE)
    # Other devices take another kernel, whose shapes can be had without one.
    assert ours.to("meta")(x.to("meta"), context.to("meta")).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_step_is_compiled_once(kind: str) -> None:
    mae, counter = model(kind), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(mae, backend=counter, fullgraph=True)
    for seed in range(3):
        images, noise = batch(seed=seed)
        assert torch.equal(compiled(images, 0.75, noise, 0.25).loss, mae(images, 0.75, noise, 0.25).loss)
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_losses_are_nearly_the_same(kind: str) -> None:
    mae, (images, noise) = model(kind), batch()
    with torch.autocast("cpu", torch.bfloat16):
        half: MAEOutput = mae(images, 0.75, noise, 0.25)
    half.loss.backward()
    assert half.loss.dtype == torch.float32
    assert half.loss.item() == pytest.approx(mae(images, 0.75, noise, 0.25).loss.item(), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gallery_shows_all_patches(kind: str) -> None:
    images = (torch.rand(2, 8, 6, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    made = reconstruct_images(model(kind, 0.0), images, (0.5,) * 3, (0.25,) * 3, 0.75)
    assert made.reconstruction.shape == images.shape
    grey = (made.visible == 128).all(axis=-1)
    assert 1 - grey.mean() == pytest.approx(0.25, abs=0.01)
    assert (made.reconstruction[~grey] == images[~grey]).all()
    assert (made.reconstruction[grey] != 128).any()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_back(tmp_path: Path, kind: Any) -> None:
    mae, (images, noise) = model(kind), batch()
    meta = WeightsMeta("mae", ModelConfig(**SIZES, decoder_attention=kind), SHAPE, (0.5,) * 3, (0.2,) * 3)
    save(tmp_path, mae, meta)
    again, found = load(tmp_path)
    assert found == meta
    assert isinstance(again, MaskedAutoencoder)
    assert torch.equal(again(images, 0.75, noise).masked_loss, mae(images, 0.75, noise).masked_loss)
    other = "self" if kind == "cross" else "cross"
    with pytest.raises(ValueError, match="does not describe"):
        save(tmp_path, mae, dataclasses.replace(meta, model=ModelConfig(**SIZES, decoder_attention=other)))


def test_weights_from_before_there_was_a_choice_are_by_self_attention(tmp_path: Path) -> None:
    mae, (images, noise) = model("self"), batch()
    save(tmp_path, mae, WeightsMeta("mae", ModelConfig(**SIZES), SHAPE, (0.5,) * 3, (0.2,) * 3))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        values = json.loads(file.metadata()["pocketvit"])
    del values["model"]["decoder_attention"]
    save_file(mae.state_dict(), tmp_path / "old.safetensors", {"pocketvit": json.dumps(values)})
    again, found = load(tmp_path / "old.safetensors")
    assert found.model.decoder_attention == "self"
    assert torch.equal(again(images, 0.75, noise).prediction, mae(images, 0.75, noise).prediction)


def test_counts_by_hand() -> None:
    config = ModelConfig(**SIZES | {"depth": 1, "decoder_depth": 1}, decoder_attention="cross")
    # 3 of 12 patches of 12 values, and the class token, through one layer of width 16 with feed-forward 32 wide.
    encoder = 3 * 12 * 16 + 4 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 4 * 4 * 16
    # 4 tokens to width 12 and to keys and values; of those decoded, query, projection, products, feed-forward, pixels.
    once, each = 4 * 16 * 12 + 4 * 2 * 12 * 12, 2 * 12 * 12 + 2 * 4 * 12 + 2 * 12 * 24 + 12 * 12
    for share, discount, decoded in ((1.0, 0.1, 12), (0.25, 0.1, 5), (1.0, 0.0, 9), (0.25, 0.0, 2)):
        b = costs(config, SHAPE, 10, 0.75, share, discount)
        assert b.pretrain_macs == encoder + once + decoded * each


def test_the_verb_counts_what_the_settings_decode(capsys: pytest.CaptureFixture[str]) -> None:
    def cost(*flags: str) -> dict[str, Any]:
        assert main(["budget", "--json", *flags]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    plain, less = cost(), cost("--decode-share", "0.25")
    assert less.pop("pretrain_macs") < plain.pop("pretrain_macs")
    assert less == plain
    cross = ["--decode-share", "0.25", "--model.decoder_attention", "cross"]
    assert cost(*cross, "--mae.visible_discount", "0")["pretrain_macs"] < cost(*cross)["pretrain_macs"]
