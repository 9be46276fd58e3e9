"""``RuleBook``: the rules in force, from the cloud if it has sent any, else from the local file.

What the cloud sent is kept, so an agent that starts without a network watches what it watched
before. Rules that do not parse are refused as a whole and the old ones stay in force.
"""

import logging
from pathlib import Path
from typing import Final

from camsdk.errors import InvalidInput
from camsdk.files import write_atomic
from camsdk.vision.rules import NO_RULES, Rules, parse_rules

_log = logging.getLogger(__name__)

_FILE: Final = "rules.yaml"


class RuleBook:
    """Rules of this agent's cameras.

    Args:
        data_dir: Where the cloud's rules are kept.
        local: Rules file used until the cloud sends rules, or None.

    Raises:
        InvalidInput: the local file cannot be read or does not parse.
    """

    def __init__(self, data_dir: Path, local: Path | None) -> None:
        self._path = data_dir / _FILE
        self.rules = self._load(local)

    def _load(self, local: Path | None) -> Rules:
        if self._path.exists():
            try:
                return parse_rules(self._path.read_text("utf-8"))
            except (InvalidInput, OSError, UnicodeDecodeError) as error:
                _log.error("the rules kept from the cloud are not usable: %s", error)
        if local is None:
            return NO_RULES
        try:
            text = local.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"the rules file {local} cannot be read: {error}") from error
        return parse_rules(text)

    def take(self, rules_yaml: str) -> bool:
        """Takes rules from the cloud; returns whether anything is different now."""
        try:
            rules = parse_rules(rules_yaml)
        except InvalidInput as error:
            _log.error("the cloud's rules are refused: %s", error)
            return False
        if rules.digest == self.rules.digest:
            return False
        self.rules = rules
        try:
            write_atomic(self._path, rules_yaml.encode())
        except OSError as error:  # they hold all the same; the cloud sends them again at a restart
            _log.error("the rules cannot be kept: %s", error.strerror)
        return True
