"""Closed forms against numpy, written independently: where methods start and what they compute."""

import numpy as np
import pytest
import torch

from refs import (
    antipasto_ablate,
    antipasto_asvd,
    antipasto_corda,
    antipasto_rot,
    asvd,
    corda,
    eva,
    hra,
    ia3,
    ia3_ff,
    lora_xs,
    olora,
    pissa,
    road,
)
from refs.calibration import batches, calls
from refs.case import Case
from refs.problem import problem, start

CASE = Case(d_in=12, d_out=8, rank=3, alpha=7.5, weight="decay")
FORMULAS = {"pissa": pissa, "olora": olora, "lora_xs": lora_xs, "corda": corda, "eva": eva, "hra": hra, "road": road}
FORMULAS |= {"ia3": ia3, "ia3_ff": ia3_ff, "asvd": asvd, "antipasto_rot": antipasto_rot}
FORMULAS |= {"antipasto_corda": antipasto_corda, "antipasto_asvd": antipasto_asvd, "antipasto_ablate": antipasto_ablate}

NEED_DATA = ("eva", "corda", "asvd", "antipasto_corda", "antipasto_asvd")
SMALL = {"lora_xs": 1e-4, "antipasto_rot": 2e-3}  # starts that are no identity


def at(variant, case):
    """Weight, start with frozen tensors, perturbed numbers, W′, b′ – as numpy."""
    formula = FORMULAS[variant].FORMULA
    numbers = problem(case, formula)
    begin = start(case, formula, numbers.weight) | formula.begin(case, numbers.weight).frozen
    weight, bias = formula.adapted(case, numbers.weight, numbers.bias, numbers.parameters | numbers.frozen)
    given = {name: value.numpy() for name, value in (numbers.parameters | numbers.frozen).items()}
    return (
        numbers.weight.numpy(),
        numbers.bias.numpy(),
        {k: v.numpy() for k, v in begin.items()},
        given,
        weight.numpy(),
        bias.numpy(),
    )


def near(one, other, tolerance=1e-12):
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= tolerance * max(np.abs(other).max(), 1e-300)


def best(matrix, r):
    """The best approximation of rank r, by eigenvectors."""
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    V = vectors[:, np.argsort(values)[::-1][:r]]
    return matrix @ V @ V.T


@pytest.mark.parametrize(("options", "s"), [({}, 2.5), ({"rslora": True}, 7.5 / 3**0.5)])
def test_pissa_takes_the_best_approximation_out(options, s):
    W, _, begin, p, adapted, _ = at("pissa", CASE.but(options=options))
    near(s * begin["lora_B"] @ begin["lora_A"], best(W, 3), 1e-10)
    near(begin["residual"], W - best(W, 3), 1e-10)
    near(begin["lora_A"] @ begin["lora_A"].T, begin["lora_B"].T @ begin["lora_B"], 1e-10)  # one half of S each
    near(adapted, begin["residual"] + s * p["lora_B"] @ p["lora_A"])


def test_olora_takes_rows_and_columns_of_qr_out():
    W, _, begin, p, adapted, _ = at("olora", CASE)
    Q = np.zeros((8, 3))
    for i in range(3):  # Gram and Schmidt
        column = W[:, i] - Q[:, :i] @ (Q[:, :i].T @ W[:, i])
        Q[:, i] = column / np.linalg.norm(column)
    near(begin["lora_B"] @ begin["lora_A"], Q @ Q.T @ W, 1e-10)
    near(np.abs(begin["lora_B"]), np.abs(Q), 1e-10)
    near(begin["residual"], W - 2.5 * Q @ Q.T @ W, 1e-10)
    near(adapted, begin["residual"] + 2.5 * p["lora_B"] @ p["lora_A"])


@pytest.mark.parametrize(("alpha", "s"), [(7.5, 2.5), (None, 1.0)])
def test_lora_xs_trains_a_square_between_frozen_factors(alpha, s):
    W, bias, begin, p, adapted, shifted = at("lora_xs", CASE.but(alpha=alpha))
    near(begin["lora_B"] @ begin["lora_A"], best(W, 3), 1e-10)
    near(begin["lora_B"].T @ begin["lora_B"], np.eye(3))
    near(adapted, W + s * begin["lora_B"] @ p["lora_R"] @ begin["lora_A"])
    assert np.abs(begin["lora_R"]).max() < 1e-4
    near(shifted, bias)


@pytest.mark.parametrize("kind", ["one", "several", "padded"])
@pytest.mark.parametrize("whiten", [False, True])
def test_eva_starts_at_principal_directions_of_centred_tokens(kind, whiten):
    case = CASE.but(data=kind, options={"whiten": whiten})
    W, _, begin, p, adapted, _ = at("eva", case)
    spread = {}
    for name, x in calls(batches(case), labels=True).items():
        tokens = np.concatenate([call.numpy() for call in x])
        values, vectors = np.linalg.eigh(len(tokens) * np.cov(tokens.T, bias=True))
        order = np.argsort(values)[::-1]
        spread[name] = values[order] / values.sum(), vectors[:, order].T, values[order]
    pool = sorted(((part, name) for name, (parts, *_) in spread.items() for part in parts[:6]), reverse=True)[:6]
    r = sum(name == "layer" for _, name in pool)
    assert r > 3
    _, directions, values = spread["layer"]
    A = directions[:r] / (values[:r, None] ** 0.25 if whiten else 1)
    flips = np.sign((A * begin["lora_A"]).sum(axis=1))
    near(begin["lora_A"], flips[:, None] * A, 1e-9)
    assert not begin["lora_B"].any()
    near(adapted, W + 7.5 * r / 3 / r * p["lora_B"] @ p["lora_A"])  # alpha grows with the rank that a layer got


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
@pytest.mark.parametrize("kind", ["one", "several", "padded"])
def test_corda_splits_the_weight_along_its_input(mode, kind):
    case = CASE.but(data=kind, options={"mode": mode, "damp": 0.05})
    W, _, begin, p, adapted, _ = at("corda", case)
    C = np.zeros((12, 12))
    tokens = [x.numpy() for x in calls(batches(case), labels=False)["layer"]]
    for x in tokens:
        C += (x / abs(x.max())).T @ (x / abs(x.max())) / len(tokens)
    C += 0.05 * np.trace(C) / 12 * np.eye(12)
    values, vectors = np.linalg.eigh(W @ C @ C @ W.T)
    U = vectors[:, np.argsort(values)[::-1]][:, :3] if mode == "ipm" else vectors[:, np.argsort(values)][:, :3]
    part = U @ U.T @ W  # U_r S V_rᵀ C⁻¹ = U_r U_rᵀ W
    near(2.5 * begin["lora_B"] @ begin["lora_A"], part, 1e-6)
    near(begin["residual"], W - part, 1e-6)
    near(adapted, begin["residual"] + 2.5 * p["lora_B"] @ p["lora_A"])


@pytest.mark.parametrize("method", ["abs_mean", "abs_max"])
@pytest.mark.parametrize("kind", ["one", "several", "padded"])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_asvd_splits_the_weight_by_the_sizes_of_its_inputs(method, kind, power):
    options = {"scaling_method": method, "act_alpha": power}
    W, _, begin, p, adapted, _ = at("asvd", CASE.but(data=kind, options=options))
    tokens = [abs(x.numpy()) for x in calls(batches(CASE.but(data=kind)), labels=False)["layer"]]
    sizes = sum(x.sum(axis=0) / len(x) for x in tokens) if method == "abs_mean" else np.concatenate(tokens).max(axis=0)
    scaled = W * (sizes**power + 1e-6)
    values, vectors = np.linalg.eigh(scaled @ scaled.T)
    order = np.argsort(values)[::-1][:3]
    U, S = vectors[:, order], values[order] ** 0.5
    part = U @ U.T @ W  # U_r S_r V_rᵀ diag(c)⁻¹ = U_r U_rᵀ W
    near(2.5 * begin["lora_B"] @ begin["lora_A"], part, 1e-10)
    near(begin["lora_B"].T @ begin["lora_B"], np.diag(S) / 2.5, 1e-10)  # one half of S on each side
    near(begin["residual"], W - part, 1e-10)
    near(adapted, begin["residual"] + 2.5 * p["lora_B"] @ p["lora_A"])


def test_asvd_without_residual_leaves_its_part_alone():
    case = CASE.but(data="one", options={"residual": False})
    kept = at("asvd", case.but(options={"residual": True}))[2]
    _, _, begin, p, adapted, _ = at("asvd", case)
    assert not begin["residual"].any()
    assert all((begin[name] == kept[name]).all() for name in ("lora_A", "lora_B"))
    near(adapted, 2.5 * p["lora_B"] @ p["lora_A"])


def gains(g, coeff=1.0):
    return np.array([1 + coeff * value if coeff * value > 0 else np.exp(coeff * value) for value in g])


@pytest.mark.parametrize("kind", ["one", "several", "padded"])
@pytest.mark.parametrize(
    ("variant", "right"), [("antipasto_corda", "lora_P"), ("antipasto_asvd", "lora_P"), ("antipasto_ablate", "lora_Vh")]
)
def test_components_are_oriented_by_moments(variant, right, kind):
    options = {"cov_orient": True, "cov_eps": 0.05} if variant == "antipasto_ablate" else {"cov_eps": 0.05}
    case = CASE.but(data=kind, alpha=None, options=options)
    W, _, begin, p, adapted, _ = at(variant, case)
    tokens = np.concatenate([x.numpy() for x in calls(batches(case), labels=False)["layer"]])
    C = np.einsum("ti,tj->ij", tokens, tokens) / len(tokens)
    C = (np.diag(np.diag(C)) if variant == "antipasto_asvd" else C) + 0.05 * np.eye(12)
    values, vectors = np.linalg.eigh(W @ C @ W.T)  # no root: U S² Uᵀ
    order = np.argsort(values)[::-1][:3]
    U = vectors[:, order]
    near(begin["lora_U"] @ begin["lora_U"].T, U @ U.T, 1e-9)
    near(begin["lora_S"] ** 2, values[order], 1e-10)
    near(begin["lora_U"] * begin["lora_S"] @ begin[right], U @ U.T @ W, 1e-9)  # S P = UᵀW
    near(begin[right] @ C @ begin[right].T, np.eye(3), 1e-9)
    if right == "lora_P":
        near(adapted, W + p["lora_U"] * (p["lora_S"] * (gains(p["lora_g"]) - 1)) @ p["lora_P"])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_an_ablation_takes_directions_out_as_far_as_their_strengths(k):
    W, _, begin, p, adapted, _ = at("antipasto_ablate", CASE.but(alpha=None, options={"k": k, "coeff": 0.7}))
    near(begin["lora_alpha"], np.full(k, 0.05), 1e-7)
    c, alpha = p["lora_c"], p["lora_alpha"]
    assert ((alpha > 0) & (alpha < 1)).all()
    Q, R = np.linalg.qr(c)
    C = Q if k > 1 else Q * np.abs(R) / (np.abs(R) + 1e-6)
    near(adapted, W - 0.7 * p["lora_U"] @ (C * alpha) @ C.T @ np.diag(p["lora_S"]) @ p["lora_Vh"], 1e-11)
    formula, case = antipasto_ablate.FORMULA, CASE.but(alpha=None, options={"k": k, "coeff": 0.7}, state="beyond")
    numbers = problem(case, formula)
    held = {**numbers.parameters, "lora_alpha": numbers.parameters["lora_alpha"].clip(0, 1)}
    one, other = (formula.adapted(case, numbers.weight, None, given | numbers.frozen)[0] for given in (numbers.parameters, held))
    near(one.numpy(), other.numpy())


@pytest.mark.parametrize("variant", ["road_1", "road_2", "road_4"])
def test_road_turns_pairs_of_outputs(variant):
    case = CASE.but(rank=None, alpha=None, options={"road_variant": variant, "group_size": 4})
    W, bias, begin, p, adapted, shifted = at("road", case)
    assert not begin["lora_theta"].any()
    assert (begin["lora_alpha"] == 1).all()
    theta, alpha = p["lora_theta"], p["lora_alpha"]
    expected = np.zeros((8, 13))
    both = np.concatenate([W, bias[:, None]], axis=1)
    for group in range(2):
        for i in range(2):
            up, down = 4 * group + i, 4 * group + i + 2
            match variant:
                case "road_1":
                    k = [2 * group + i] * 4
                case "road_2":
                    k = [up, up, down, down]
                case _:
                    k = [8 * group + i, 8 * group + 4 + i, 8 * group + i + 2, 8 * group + 4 + i + 2]
            c, s = alpha[k] * np.cos(theta[k]), alpha[k] * np.sin(theta[k])
            expected[up] = c[0] * both[up] - s[1] * both[down]
            expected[down] = c[2] * both[down] + s[3] * both[up]
    near(adapted, expected[:, :12])
    near(shifted, expected[:, 12])


def test_hra_reflects_the_weight():
    W, bias, begin, p, adapted, shifted = at("hra", CASE.but(alpha=None, rank=4))
    H = np.eye(12)
    for u in p["lora_U"]:
        H = H @ (np.eye(12) - 2 * np.outer(u, u) / (u @ u))
    near(adapted, W @ H)
    near(shifted, bias)
    near(H @ H.T, np.eye(12))
    assert (begin["lora_U"][::2] == begin["lora_U"][1::2]).all()


def test_ia3_scales_outputs_or_inputs():
    plain = CASE.but(rank=None, alpha=None)
    W, bias, _, p, adapted, shifted = at("ia3", plain)
    near(adapted, np.diag(p["lora_g"]) @ W)
    near(shifted, p["lora_g"] * bias)
    W, bias, _, p, adapted, shifted = at("ia3_ff", plain)
    near(adapted, W @ np.diag(p["lora_g"]))
    near(shifted, bias)


@pytest.mark.parametrize("basis", ["V", "U", "both", "none"])
@pytest.mark.parametrize("coeff", [1.0, -0.6])
def test_antipasto_turns_pairs_of_components_by_angles(coeff, basis):
    options = {"block_size": 2, "coeff": coeff, "max_rotation_angle": 0.7, "rotate_basis": basis}
    W, _, begin, p, adapted, _ = at("antipasto_rot", CASE.but(rank=4, alpha=None, options=options))

    def turned(vectors, T):  # columns, in pairs: towards each other's place
        new, most = vectors.copy(), np.tan(0.35)
        for pair, half in enumerate(coeff * most * np.tanh(T[:, 0] / 2 / (2 * most))):
            c, s = np.cos(2 * np.arctan(half)), np.sin(2 * np.arctan(half))
            one, other = vectors[:, 2 * pair], vectors[:, 2 * pair + 1]
            new[:, 2 * pair], new[:, 2 * pair + 1] = c * one + s * other, c * other - s * one
        return new

    U, V, S = p["lora_U"], p["lora_Vh"].T, p["lora_S"]
    changed_U = turned(U, p["lora_rot_T_u" if basis == "both" else "lora_rot_T"]) if basis in ("U", "both") else U
    changed_V = turned(V, p["lora_rot_T"]) if basis in ("V", "both") else V
    near(adapted, W - U @ np.diag(S) @ V.T + changed_U @ np.diag(S + coeff * p["lora_delta_s"]) @ changed_V.T)
    assert ("lora_rot_T" in p, "lora_rot_T_u" in p) == (basis != "none", basis == "both")
    assert all(not begin[name].any() for name in p if "rot" in name)


@pytest.mark.parametrize("variant", FORMULAS)
def test_the_numbers_given_at_the_start_give_the_weight_back(variant):
    changes = {"state": "init", "data": "one" if variant in NEED_DATA else "", "rank": 4}
    changes |= {"rank": None, "alpha": None, "options": {"group_size": 4}} if variant == "road" else {}
    changes |= {"options": {"init_alpha": 0.0}} if variant == "antipasto_ablate" else {}
    changes |= {"alpha": None} if variant == "hra" else {}
    W, _, _, _, adapted, _ = at(variant, CASE.but(**changes))
    near(adapted, W, SMALL.get(variant, 1e-12))
    assert torch.isfinite(torch.from_numpy(adapted)).all()
