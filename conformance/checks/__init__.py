"""All checks, in the order of the verdict table's rows."""

from conformance.check import Check
from conformance.checks import calibration, function, lifecycle, start, steering, structure, sweep

CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        structure.mapping,
        start.seed_parity,
        start.init,
        function.forward,
        function.gradients,
        start.dead_parameters,
        start.identity,
        function.dropout,
        function.accuracy,
        sweep.shape_sweep,
        steering.steering,
        function.defaults,
        calibration.calibration,
        lifecycle.round_trip,
        lifecycle.detach,
        lifecycle.failed_attach,
        lifecycle.bad_input,
    )
}
