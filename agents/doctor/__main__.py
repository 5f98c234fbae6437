"""python -m agents.doctor run=runs/NAME: what a run's numbers mean and what to do about it.

Exit status: 0 no alarm, 1 something should be changed, 2 the run could not be examined.
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.doctor.finding import ALARM
from agents.doctor.folder import DoctorConfig, history_of
from agents.doctor.report import counted, examine, lines_of
from agents.saved import CONF

ConfigStore.instance().store(name="doctor_schema", node=DoctorConfig)


@hydra.main(version_base="1.3", config_path=CONF, config_name="doctor")
def main(composed: DictConfig) -> None:
    """Compose, examine, tell."""
    try:
        config = OmegaConf.to_object(composed)
        assert isinstance(config, DoctorConfig)
        history = history_of(str(config.run))
    except (ValueError, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    findings = examine(history)
    iterations = int(history.records[-1]["iteration"])
    print(f"{config.run}: {iterations} iteration{'s' * (iterations != 1)}, {counted(findings)}")
    for line in lines_of(findings):
        print(line)
    sys.exit(any(finding.level == ALARM for finding in findings))


if __name__ == "__main__":
    main()
