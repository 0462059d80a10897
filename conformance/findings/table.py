"""Bugs that live in the installed references today: each with a script of public calls, which anyone can run."""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

SCRIPTS = Path(__file__).with_name("scripts")
RELEASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "peft": ("0.15.2", "0.16.0", "0.17.1", "0.18.1", "0.19.1", "0.20.0", "0.21.2"),
        "loralib": ("0.1.0", "0.1.1", "0.1.2"),
        "torchtune": ("0.6.1",),
        "lycoris-lora": ("4.1.3",),
        "adapters": ("1.3.0",),
    }
)
PEFT = "https://github.com/huggingface/peft/blob/v0.21.2/src/peft"
LORALIB = "https://github.com/microsoft/LoRA/blob/c4593f060e6a368d7bb5af5273b8e42810cdef90/loralib/layers.py"
TORCHTUNE = "https://github.com/pytorch/torchtune/blob/v0.6.1/torchtune/modules/peft/dora.py"
LYCORIS = "https://pypi.org/project/lycoris-lora/4.1.3, lycoris/modules"
ADAPTERS = "https://github.com/adapter-hub/adapters/blob/88f18ebd6c127f0e0ddf7c76cb84b37a39b82c12/src/adapters/methods/lora.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One bug of a reference, in words and numbers; what happens and what should is the first paragraph of its script.

    id: short name, also the script's. library: as PyPI has it. title: what is wrong, in a few words.
    expected: the range of the size that the script prints last: a relative error if the script says nothing else, infinity for a crash.
    infinite: what infinity stands for.
    sizes: as measured, rounded up to a power of two, one for each of `RELEASES`; None where the release has no such method.
    cell: the row of a suite, as `reproduce` takes it, that shows the bug or asks the same of lite; "" if there is none.
    needs: another package that the script takes.
    page: of the third party's layer that it turns red; "" if it turns none.
    divergences: ids under which it shows it. planted: the known bug that turns it red. says: what it says of the reference, or why there
        is no cell.
    hidden_by: why upstream's own tests miss it. source: where it is. known: where it was told before; "" if in no tracker we searched.
    """

    id: str
    library: str
    title: str
    expected: tuple[float, float]
    sizes: tuple[float | None, ...]
    hidden_by: str
    source: str
    infinite: str = "raises"
    cell: str = ""
    needs: str = ""
    page: str = ""
    divergences: tuple[str, ...] = ()
    planted: str = ""
    says: str = ""
    known: str = ""

    @property
    def script(self) -> Path:
        """The file to run."""
        return SCRIPTS / f"{self.id.replace('-', '_')}.py"

    @property
    def paragraphs(self) -> list[str]:
        """Of the script's docstring: what happens and what should; then, if it is no relative error, what the size is."""
        text = ast.get_docstring(ast.parse(self.script.read_text(encoding="utf-8"))) or ""
        return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]

    @property
    def by_release(self) -> dict[str, float | None]:
        """Release → size."""
        return dict(zip(RELEASES[self.library], self.sizes, strict=True))

    def words(self, size: float | None) -> str:
        """A size as pages and tables write it."""
        if size is None:
            return "–"
        return self.infinite if math.isinf(size) else f"{size:.3g}"


RAISES = (math.inf, math.inf)

FINDINGS = (
    Finding(
        id="residual-rounded-after",
        library="peft",
        title="PiSSA, OLoRA and CorDA in bfloat16 start further from the identity than they have to",
        expected=(1.2, 2.0),
        sizes=(2.0,) * 7,
        cell="pissa/peft_vs_closed_form-init",
        divergences=("pissa-rounded-after", "olora-rounded-after", "corda-rounded-after"),
        hidden_by="identity tests compare in float32",
        source=f"{PEFT}/tuners/lora/layer.py#L460",
    ),
    Finding(
        id="pissa-niter-reload",
        library="peft",
        title="pissa_niter computes something else after saving and loading",
        expected=(0.1, 2.0),
        sizes=(0.5,) * 7,
        cell="pissa/itself-round_trip",
        planted="pissa-niter-reload",
        hidden_by="round-trip tests use the exact decomposition",
        source=f"{PEFT}/tuners/lora/layer.py#L446",
        known="https://github.com/huggingface/peft/pull/3310 mended the same in AdaMSS and PSOFT",
    ),
    Finding(
        id="pissa-rank-above-size",
        library="peft",
        title="PiSSA accepts r above min(d_in, d_out) and cannot be converted after training",
        expected=RAISES,
        sizes=(math.inf,) * 7,
        cell="pissa/itself-bad_input",
        planted="pissa-r-too-large",
        hidden_by="small ranks in tests; MiCA, beside it, refuses such ranks",
        source=f"{PEFT}/tuners/lora/layer.py#L440",
        known="https://github.com/huggingface/peft/issues/3702 has the same of PSOFT",
    ),
    Finding(
        id="low-cpu-mem-usage",
        library="peft",
        title="PiSSA and OLoRA adapters cannot be loaded with low_cpu_mem_usage=True",
        expected=RAISES,
        sizes=(math.inf,) * 7,
        cell="pissa/itself-round_trip",
        planted="residual-not-rebuilt",
        hidden_by="the option is tested with other starts",
        source=f"{PEFT}/tuners/lora/layer.py#L429",
    ),
    Finding(
        id="olora-conv1d",
        library="peft",
        title="OLoRA on a square Conv1D is not the identity",
        expected=(0.2, 2.0),
        sizes=(1.0,) * 7,
        cell="olora/peft_vs_closed_form-init",
        divergences=("olora-conv1d",),
        hidden_by="its tests have linear layers",
        source=f"{PEFT}/tuners/lora/layer.py#L401",
    ),
    Finding(
        id="olora-conv1d-crash",
        library="peft",
        title="OLoRA on any other Conv1D fails in forward",
        expected=RAISES,
        sizes=(math.inf,) * 7,
        cell="olora/peft-init",
        says="crashes on a Conv1D that is not square",
        hidden_by="its tests have linear layers",
        source=f"{PEFT}/tuners/lora/layer.py#L401",
    ),
    Finding(
        id="hra-gram-schmidt",
        library="peft",
        title="HRA with apply_GS starts at random, now and then with NaN",
        expected=(0.5, 2.5),
        sizes=(2.0,) * 7,
        cell="hra/itself-bad_input",
        planted="hra-gs-default-init",
        hidden_by="a GPU test asks only for a difference",
        source=f"{PEFT}/tuners/hra/layer.py#L227",
        known="https://github.com/huggingface/peft/pull/1864 has it in a review, as a reason for not testing it",
    ),
    Finding(
        id="eva-whiten-shared",
        library="peft",
        title="EVA's whiten is applied once for every layer with the same input",
        expected=(0.5, 1.0),
        sizes=(1.0,) * 7,
        cell="eva/closed_form-calibration",
        planted="eva-whiten-shared",
        hidden_by="a GPU test compares directions, not lengths",
        source=f"{PEFT}/tuners/lora/eva.py#L476",
    ),
    Finding(
        id="eva-whiten-passes",
        library="peft",
        title="EVA's whiten depends on the number of passes over the data",
        expected=(0.1, 0.5),
        sizes=(0.25,) * 7,
        cell="eva/peft_vs_closed_form-init",
        divergences=("eva-whiten-passes",),
        hidden_by="a GPU test compares directions, not lengths",
        source=f"{PEFT}/tuners/lora/eva.py#L476",
    ),
    Finding(
        id="eva-few-tokens",
        library="peft",
        title="EVA never ends on batches of fewer tokens than rho·r",
        expected=RAISES,
        sizes=(math.inf,) * 7,
        infinite="never ends",
        cell="eva/closed_form-calibration",
        planted="eva-few-tokens",
        hidden_by="enough tokens in tests",
        source=f"{PEFT}/tuners/lora/eva.py#L410",
    ),
    Finding(
        id="corda-covariance-file",
        library="peft",
        title="CorDA's covariance_file in the current folder raises after the calibration",
        expected=RAISES,
        sizes=(math.inf,) * 7,
        says="lite keeps no covariances",
        hidden_by="full paths in tests",
        source=f"{PEFT}/tuners/lora/corda.py#L232",
    ),
    Finding(
        id="corda-batches",
        library="peft",
        title="CorDA cannot calibrate on two sequences at once",
        expected=RAISES,
        sizes=(math.inf,) * 7,
        cell="corda/peft-calibration",
        says="fails on batches of several sequences",
        hidden_by="its tests have one matrix of inputs",
        source=f"{PEFT}/tuners/lora/corda.py#L175",
    ),
    Finding(
        id="corda-attrs",
        library="peft",
        title="CorDA needs attrs, which peft does not require",
        expected=RAISES,
        sizes=(math.inf,) * 7,
        says="lite requires what it imports",
        hidden_by="test environments that hold attrs",
        source=f"{PEFT}/tuners/lora/corda.py#L23",
    ),
    Finding(
        id="ia3-unmerge",
        library="peft",
        title="IA3's unmerge does not give the weight back",
        expected=(0.5, 1.0),
        sizes=(1.0,) * 7,
        cell="ia3/itself-detach",
        hidden_by="no gain is zero in tests, tolerances are 1e-4",
        source=f"{PEFT}/tuners/ia3/layer.py#L163",
        known="a warning says that it can be inaccurate, not that weights are lost",
    ),
    Finding(
        id="dora-large-bias",
        library="peft",
        title="DoRA in bfloat16 loses the gradient of m under a large bias",
        expected=(0.1, 1.0),
        sizes=(0.5,) * 7,
        says="no case has so large a bias",
        hidden_by="small biases in tests",
        source=f"{PEFT}/tuners/lora/dora.py#L161",
    ),
    Finding(
        id="delora-float16",
        library="peft",
        title="DeLoRA in float16 has no finite gradient",
        expected=RAISES,
        sizes=(None, None, None, *(math.inf,) * 4),
        infinite="not finite",
        cell="delora/peft-accuracy",
        says="the reference is not finite here",
        hidden_by="tests in float16 ask only that nothing raises",
        source=f"{PEFT}/tuners/delora/layer.py#L255",
    ),
    Finding(
        id="hra-int8",
        library="peft",
        title="HRA on 8-bit layers of bitsandbytes computes with the codes",
        expected=(100.0, 1000.0),
        needs="bitsandbytes",
        sizes=(math.inf, *(512.0,) * 6),
        says="cases have no quantised layers; [quantised bases](quantised.md) shows it",
        hidden_by="quantised layers are tested with methods that have a class for them",
        source=f"{PEFT}/tuners/hra/model.py#L112",
    ),
    Finding(
        id="lora-bias-warned",
        library="peft",
        title="save_pretrained calls the biases of lora_bias=True damaged",
        expected=(1.0, 1.0),
        sizes=(*(0.0,) * 6, 1.0),
        says="a warning changes no number; [interop](interop.md) asks for none when peft loads",
        hidden_by="tests of lora_bias do not look at warnings",
        source=f"{PEFT}/utils/save_and_load.py#L48",
    ),
    Finding(
        id="loralib-load-merged",
        library="loralib",
        title="Loading in eval mode corrupts the base weight",
        expected=(0.2, 2.0),
        sizes=(1.0,) * 3,
        cell="lora/itself-round_trip",
        hidden_by="loralib has no tests",
        source=LORALIB,
        known="https://github.com/microsoft/LoRA/issues/190 has the other direction, a file saved while merged",
    ),
    Finding(
        id="loralib-train-returns-none",
        library="loralib",
        title="train() and eval() return None",
        expected=RAISES,
        sizes=(math.inf,) * 3,
        says="lite's adapters are hooks and leave train() and eval() alone",
        hidden_by="loralib has no tests",
        source=LORALIB,
    ),
    Finding(
        id="torchtune-dora-bias",
        library="torchtune",
        title="DoRA's forward scales the bias, its merged checkpoint does not",
        expected=(0.05, 1.0),
        sizes=(0.25,),
        page="torchtune-dora",
        hidden_by="its tests compare with a reference, and merge, without a bias",
        source=f"{TORCHTUNE}#L187",
    ),
    Finding(
        id="lycoris-dropout",
        library="lycoris-lora",
        title="LoRA's dropout drops nothing unless bypass_mode is on",
        expected=(0.5, 1.0),
        sizes=(1.0,),
        page="lycoris-locon",
        hidden_by="its tests ask that nothing raises; its documentation says that valid dropouts vary from method to method",
        source=f"{LYCORIS}/locon.py, LoConModule.forward",
    ),
    Finding(
        id="lycoris-dora-bfloat16",
        library="lycoris-lora",
        title="DoRA on a bfloat16 model raises",
        expected=RAISES,
        sizes=(math.inf,),
        page="lycoris-dora",
        hidden_by="its tests move the adapter to the base's dtype and run under autocast",
        source=f"{LYCORIS}/locon.py, LoConModule.forward",
    ),
    Finding(
        id="lycoris-ia3-bias",
        library="lycoris-lora",
        title="IA3 on the output scales the bias with bypass_mode only",
        expected=(0.1, 1.0),
        sizes=(0.5,),
        page="lycoris-ia3",
        hidden_by="its tests ask that nothing raises; the paper's T5 has no biases",
        source=f"{LYCORIS}/ia3.py, IA3Module.forward",
    ),
    Finding(
        id="adapters-dora-scale",
        library="adapters",
        title="DoRA divides by the norms of W + BA, without alpha/r",
        expected=(0.5, 4.0),
        sizes=(2.0,),
        page="adapters-dora",
        hidden_by="alpha = r by default, as in its tests",
        source=f"{ADAPTERS}#L966",
    ),
    Finding(
        id="adapters-dora-merge",
        library="adapters",
        title="merge_adapter merges DoRA without alpha/r",
        expected=(0.2, 2.0),
        sizes=(1.0,),
        says="a layer is certified as it is trained, not merged",
        hidden_by="its test merges a new adapter, with alpha = r and B = 0",
        source=f"{ADAPTERS}#L482",
    ),
    Finding(
        id="adapters-dora-reset",
        library="adapters",
        title="reset_adapter does not give the weight back after DoRA was merged",
        expected=(0.2, 2.0),
        sizes=(1.0,),
        says="a layer is certified as it is trained, not merged",
        hidden_by="its test merges a new adapter, whose B = 0 leaves the weight as it is",
        source=f"{ADAPTERS}#L893",
    ),
    Finding(
        id="adapters-dora-bias",
        library="adapters",
        title="DoRA's forward scales the bias, its merge does not",
        expected=(0.05, 1.0),
        sizes=(0.5,),
        page="adapters-dora",
        hidden_by="new models have biases of zero",
        source=f"{ADAPTERS}#L464",
    ),
)

CHOICES: Mapping[str, str] = MappingProxyType(
    {
        "eva-randomised": "a randomised decomposition is a price for speed, and its seed is fixed",
        "eva-streaming": "the paper's algorithm is a truncated streaming decomposition that stops early",
        "hra-base-dtype": "it is lite that keeps the base's dtype; peft is the more precise of the two",
        "CorDA's reload of a plain adapter": "it raises and says what is missing; the documentation converts the adapter first",
        "HRA of odd rank": "it warns that it does not start as the identity",
        "antipasto_corda beside peft's CorDA": "W C^½ and C^−½ in the one, W C and C⁻¹ in the other: the parts of the weight that they take are "
        "0.25 … 0.5 of their norm apart; the former is the best for these inputs, what it loses is 0.93 of what the latter does",
        "AntiPaSTO in bfloat16": "the authors and lora-lite form 1 + ELU(g) and S + δ in the layer's dtype: gains within −0.002 … 0.004 and shifts below "
        "half a step, rot's start among them, change nothing; lite adds the difference",
        "PiSSA, OLoRA, CorDA, PSOFT on a float64 base": "refused in words",
    }
)
