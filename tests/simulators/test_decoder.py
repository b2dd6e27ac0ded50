"""Energies, gradients and Fisher information of a decoder against closed forms and autodiff."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.linearisation import TanhStack, tanh_stack
from foreshock.simulators.particles import Engine
from foreshock.simulators.recording import run_engine
from foreshock.simulators.schedules import constant_schedules
from tests.simulators.decoders import generator, tanh_decoder


def potential(n: int = 6, loss: str = "gaussian") -> tuple[DecoderPotential, Tensor]:
    targets = torch.randn(n, 4, generator=generator(2), dtype=torch.float64)
    z = torch.randn(n, 3, generator=generator(3), dtype=torch.float64)
    return DecoderPotential(tanh_decoder(), targets, dimension=3, noise_scale=0.7, loss=loss), z


@pytest.mark.parametrize("loss", ["gaussian", "mean-square"])
def test_energy_and_gradient_are_those_of_the_formula(loss: str) -> None:
    found, z = potential(loss=loss)
    points = z.clone().requires_grad_()
    residual = found.targets - found.decode(points)
    if loss == "gaussian":
        energy = residual.square().sum(1) / (2 * 0.7**2)
    else:
        energy = residual.square().mean(1)
    torch.testing.assert_close(found.energy(z), energy.detach())
    expected = torch.autograd.grad(energy.sum(), points)[0]
    torch.testing.assert_close(found.gradient(z), expected)
    assert not found.gradient(z).requires_grad


def test_hessian_is_that_of_autodiff() -> None:
    found, z = potential()
    for i in range(2):
        one = found.rows(slice(i, i + 1))

        def energy(point: Tensor, one: DecoderPotential = one) -> Tensor:
            residual = one.targets - one.decode(point[None])
            return residual.square().sum() / (2 * 0.7**2)

        expected = torch.autograd.functional.hessian(energy, z[i])
        torch.testing.assert_close(found.hessian(z)[i], expected)


def test_jacobian_products_agree_with_the_jacobian() -> None:
    found, z = potential()
    u = torch.randn(z.shape, generator=generator(4), dtype=z.dtype)
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda p: found.decode(p[None])[0], p) for p in z]
    )
    torch.testing.assert_close(found.jacobian(z), jacobian)
    torch.testing.assert_close(found.push(z, u), (jacobian @ u[..., None])[..., 0])
    fisher = jacobian.mT @ jacobian / 0.7**2
    torch.testing.assert_close(found.fisher(z), fisher)
    torch.testing.assert_close(found.fisher_product(z, u), (fisher @ u[..., None])[..., 0])


def test_t6_divergence_of_the_fisher_information_by_hutchinson_is_that_of_autodiff() -> None:
    """Averaged over all 2^d sign vectors, Hutchinson's estimate has no sampling error left."""
    found, z = potential()

    def fisher(point: Tensor) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(
            lambda p: found.decode(p[None])[0], point, create_graph=True
        )
        return jacobian.T @ jacobian / 0.7**2

    slopes = torch.stack([torch.autograd.functional.jacobian(fisher, p) for p in z])
    expected = torch.einsum("nijj->ni", slopes)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=z.dtype)] * 3)
    mean = torch.stack([found.fisher_divergence(z, s.expand_as(z)) for s in signs]).mean(0)
    torch.testing.assert_close(mean, expected)
    assert expected.abs().max() > 0.1  # Or any zero would pass.


def test_a_linear_decoder_has_a_constant_fisher_information() -> None:
    matrix = torch.randn(4, 3, generator=generator(5), dtype=torch.float64)
    found = DecoderPotential(
        lambda z: z @ matrix.T, torch.zeros(6, 4).double(), dimension=3, noise_scale=0.5
    )
    z = torch.randn(6, 3, generator=generator(6), dtype=torch.float64)
    torch.testing.assert_close(found.fisher(z), (matrix.T @ matrix / 0.25).expand(6, 3, 3))
    assert not found.fisher_divergence(z, torch.ones_like(z)).any()
    torch.testing.assert_close(found.hessian(z), (matrix.T @ matrix / 0.25).expand(6, 3, 3))


def test_a_decoder_that_is_linear_in_pieces_has_no_divergence_between_its_kinks() -> None:
    matrix = torch.randn(2, 3, generator=generator(5), dtype=torch.float64)
    for piece in (torch.relu, torch.nn.LeakyReLU(0.2)):
        found = DecoderPotential(
            lambda z, f=piece: f(z @ matrix), torch.zeros(6, 3).double(), dimension=2
        )
        z = torch.randn(6, 2, generator=generator(6), dtype=torch.float64)
        assert not found.fisher_divergence(z, torch.ones_like(z)).any()
        kinked = DecoderPotential(
            lambda z, f=piece: f(z.sin() @ matrix), torch.zeros(6, 3).double(), dimension=2
        )
        assert kinked.fisher_divergence(z, torch.ones_like(z)).any()


def test_rows_is_the_same_potential_for_some_particles() -> None:
    found, z = potential()
    torch.testing.assert_close(found.rows(slice(2, 4)).energy(z[2:4]), found.energy(z)[2:4])


def test_single_target_mode_must_be_said() -> None:
    decoder = tanh_decoder()
    with pytest.raises(ValueError, match="`single_target=True` if all particles"):
        DecoderPotential(decoder, torch.zeros(4), dimension=3)
    with pytest.raises(ValueError, match="drop `single_target=True`"):
        DecoderPotential(decoder, torch.zeros(2, 4), dimension=3, single_target=True)
    one = DecoderPotential(decoder, torch.zeros(4).double(), dimension=3, single_target=True)
    assert one.energy(torch.zeros(7, 3).double()).shape == (7,)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"noise_scale": 0.0}, "`noise_scale` of `DecoderPotential` must be positive"),
        ({"dimension": 0}, "`dimension` of `DecoderPotential` must be at least 1"),
        ({"loss": "huber"}, "must be 'gaussian' or 'mean-square'. Got 'huber'"),
        ({"targets": torch.full((2, 4), torch.nan)}, "contain nan or inf"),
    ],
)
def test_unfit_arguments_are_refused(change: dict, sentence: str) -> None:
    fields = {"decode": tanh_decoder(), "targets": torch.zeros(2, 4), "dimension": 3, **change}
    with pytest.raises(ValueError, match=sentence):
        DecoderPotential(**fields)


def test_wrong_shapes_are_refused_with_the_shape_that_is_wanted() -> None:
    found, z = potential()
    with pytest.raises(ValueError, match=r"shape \(n, 3\). Got \(6, 2\)"):
        found.energy(z[:, :2])
    with pytest.raises(ValueError, match="5 particles and 6 targets.*own row of `targets`"):
        found.gradient(z[:5])
    wide = DecoderPotential(lambda z: z, torch.zeros(6, 4).double(), dimension=3)
    with pytest.raises(ValueError, match=r"to \(6, 3\), but the targets need \(6, 4\)"):
        wide.gradient(z)


@pytest.mark.parametrize("loss", ["gaussian", "mean-square"])
def test_hessian_product_agrees_with_the_hessian(loss: str) -> None:
    found, z = potential(loss=loss)
    u = torch.randn(z.shape, generator=generator(4), dtype=z.dtype)
    torch.testing.assert_close(
        found.hessian_product(z, u), (found.hessian(z) @ u[..., None])[..., 0]
    )


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("trained", [False, True])
def test_a_stack_of_tanh_layers_is_pulled_back_as_by_autograd(depth: int, trained: bool) -> None:
    sizes = [3, 7, 5, 4][: depth + 1] + [6]
    layers: list[nn.Module] = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    modules = [m for layer in layers for m in (layer, nn.Tanh())][:-1]
    decode = nn.Sequential(*modules).double().requires_grad_(trained)
    z = torch.randn(11, 3, generator=generator(1), dtype=torch.float64)
    potential = DecoderPotential(decode, torch.zeros(6, dtype=torch.float64), 3, single_target=True)
    stack, linear = potential.pullback(z), potential.linearise(z)
    assert isinstance(stack, TanhStack) and not stack.output.requires_grad
    assert torch.allclose(stack.output, linear.output, rtol=1e-13, atol=1e-13)
    for seed in (2, 3):  # a second time, as drift and noise do
        loads = torch.randn(11, 6, generator=generator(seed), dtype=torch.float64)
        pulled = linear.pull(loads, last=False)
        assert torch.allclose(stack.pull(loads, last=False), pulled, rtol=1e-12, atol=1e-13)


def test_tanh_of_a_stack_keeps_small_and_large_values() -> None:
    decode = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).requires_grad_(False)
    decode[0].weight.fill_(1)
    decode[0].bias.zero_()
    sizes = torch.logspace(-30, 3, 20_001)
    z = torch.cat([-sizes, torch.zeros(1), sizes, torch.tensor([torch.inf, -torch.inf])])[:, None]
    (found,) = tanh_stack(decode, z).hidden
    # Three roundings of 6e-8: of exp(2 x) - 1, of the sum and of the quotient.
    torch.testing.assert_close(found.double(), torch.tanh(z.double()), rtol=2e-7, atol=0)
    assert tanh_stack(decode, torch.full((1, 1), torch.nan)).output.isnan()
    double = copy.deepcopy(decode).double()
    (exact,) = tanh_stack(double, z.double()).hidden
    assert torch.equal(exact, torch.tanh(z.double()))


def test_a_layer_may_stand_in_a_stack_twice() -> None:
    layer = nn.Linear(3, 3).double()
    decode = nn.Sequential(layer, nn.Tanh(), layer)
    z = torch.randn(5, 3, generator=generator(1), dtype=torch.float64)
    potential = DecoderPotential(decode, torch.zeros(3, dtype=torch.float64), 3, single_target=True)
    stack, linear = potential.pullback(z), potential.linearise(z)
    assert isinstance(stack, TanhStack) and torch.allclose(stack.output, linear.output)
    assert torch.allclose(stack.pull(torch.ones_like(z)), linear.pull(torch.ones_like(z)))


def test_a_decoder_that_does_more_than_a_tanh_stack_is_left_to_autograd() -> None:
    z = torch.randn(5, 3, generator=generator(1), dtype=torch.float64)
    target = torch.zeros(4, dtype=torch.float64)

    def pulled(decode: nn.Module) -> bool:
        return isinstance(
            DecoderPotential(decode, target, 3, single_target=True).pullback(z), TanhStack
        )

    class Louder(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    assert pulled(tanh_decoder())
    calls = []
    hooked = tanh_decoder()
    handle = hooked[1].register_forward_hook(lambda *_: calls.append(1))
    assert not pulled(hooked) and calls
    handle.remove()
    assert pulled(hooked)
    whole = tanh_decoder()
    whole.register_forward_pre_hook(lambda *_: None)
    patched = tanh_decoder()
    patched[0].forward = lambda x: torch.zeros(len(x), 5, dtype=x.dtype)
    normed = tanh_decoder()
    nn.utils.parametrizations.weight_norm(normed[0])
    others = [
        whole,
        patched,
        normed,
        nn.Sequential(Louder(3, 4)).double(),
        nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)).double(),
        nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double(),
        nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4, bias=False)).double(),
    ]
    assert not any(pulled(decode) for decode in others)
    with pytest.raises(ValueError, match="computes in torch.float32"):
        pulled(tanh_decoder().float())
    with torch.autocast("cpu"):
        assert not pulled(tanh_decoder())
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not pulled(tanh_decoder())
    finally:
        handle.remove()


class _Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 4))

    def decode(self, z: Tensor) -> Tensor:
        return self.net(z)


def test_a_random_decoder_is_refused_until_it_is_evaluated() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4))
    targets, z = torch.zeros(6, 4), torch.ones(6, 3)
    with pytest.raises(
        ValueError, match=r"Dropout in train mode: its output is random.*`.eval\(\)`"
    ):
        DecoderPotential(net, targets, 3)
    found = DecoderPotential(net.eval(), targets, 3)
    assert torch.equal(found.gradient(z), found.gradient(z))
    state = torch.get_rng_state()
    found.energy(z)
    assert torch.equal(state, torch.get_rng_state())
    net.train()  # behind its back
    for ask in (found.energy, found.gradient, found.hessian):
        with pytest.raises(ValueError, match="Dropout in train mode"):
            ask(z)
    with pytest.raises(ValueError, match="Dropout in train mode"):
        DecoderPotential(_Own().decode, targets, 3)
    DecoderPotential(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0)), targets, 3).energy(z)


def test_a_decoder_that_couples_the_particles_is_refused() -> None:
    targets = torch.zeros(6, 4)
    z = torch.randn(6, 3, generator=generator(11))
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="BatchNorm1d in train mode: .* on the other particles"):
        DecoderPotential(net, targets, 3)
    whole = DecoderPotential(net.eval(), targets, 3)
    # Law: a particle's gradient is that of the particle alone.
    torch.testing.assert_close(whole.gradient(z)[:2], whole.rows(slice(2)).gradient(z[:2]))
    for_ever = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match="statistics, which takes those of the cloud in any mode"):
        DecoderPotential(for_ever, targets, 3)
    DecoderPotential(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), targets, 3).energy(z)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_decoder_of_another_width_or_type_is_named(layers: int) -> None:
    net = (
        nn.Linear(3, 4)
        if layers == 1
        else nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    )
    narrow = DecoderPotential(net, torch.zeros(50, 4), 2)
    right = DecoderPotential(net, torch.zeros(50, 4), 3)
    for ask in ("energy", "gradient", "hessian"):
        with pytest.raises(
            ValueError, match=r"latent states \(n, 2\): its first layer wants \(n, 3\)"
        ):
            getattr(narrow, ask)(torch.zeros(50, 2))
        with pytest.raises(
            ValueError, match="computes in torch.float32 and the particles are torch.f"
        ):
            getattr(right, ask)(torch.zeros(50, 3).double())
    matrix = torch.ones(3, 4)
    plain = DecoderPotential(lambda z: z @ matrix, torch.zeros(50, 4), 2)
    with pytest.raises(ValueError, match=r"does not take latent states \(n, 2\) .* torch says"):
        plain.energy(torch.zeros(50, 2))


def test_what_fails_for_another_reason_stays_what_it_was() -> None:
    def crowded(z: Tensor) -> Tensor:
        if len(z) > 10:
            raise RuntimeError("out of memory")
        return z

    with pytest.raises(RuntimeError, match="^out of memory$"):
        DecoderPotential(crowded, torch.zeros(50, 2), 2).energy(torch.zeros(50, 2))


def test_a_decoder_that_returns_nan_is_named(capfd: pytest.CaptureFixture) -> None:
    decode = nn.Linear(2, 3)
    nn.init.constant_(decode.weight, torch.nan)
    found = DecoderPotential(decode, torch.zeros(50, 3), 2)
    engine = Engine(found, constant_schedules(), 0.01)
    with pytest.raises(ValueError, match="decoder returns nan or inf for .* Check its weights"):
        run_engine(engine, torch.zeros(50, 2), 2, generator=generator(0))
    assert capfd.readouterr() == ("", "")  # MKL used to print sixteen lines


class _Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
        self.decoder = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))

    def plain(self, z: Tensor) -> Tensor:
        return self.decoder[0](z)

    def whole(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def test_of_a_bound_method_only_what_it_calls_counts() -> None:
    model = _Autoencoder().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    numbers = torch.get_rng_state()
    DecoderPotential(model.plain, torch.zeros(5, 3), 2)  # dropout and statistics are elsewhere
    with pytest.raises(ValueError, match="Dropout in train mode"):
        DecoderPotential(model.whole, torch.zeros(5, 3), 2)
    later = DecoderPotential(model.eval().whole, torch.zeros(5, 3), 2)
    model.train()
    with pytest.raises(ValueError, match="Dropout in train mode"):
        later.energy(torch.zeros(5, 2))
    # To look is not to touch.
    assert torch.equal(numbers, torch.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
