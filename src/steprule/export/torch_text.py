"""What an exported torch file says whatever its rule: pieces of its class."""

from __future__ import annotations

INIT = '''\
class {name}(torch.optim.Optimizer):
    """{told}"""

    def __init__({arguments}):
        """Take {taken}, and the numbers that groups do not give themselves."""
{body}
'''

ADD = '''\
    def add_param_group(self, param_group):
        """Add a group, after a look at its numbers."""
{defaults}
        super().add_param_group(param_group)

    def _look(self, group):
        """Refuse numbers for which the formula has no meaning."""
{checks}
'''

STEP = '''\
    @torch.no_grad()
    def step(self, closure=None{loss}):
        """Update every parameter that has a gradient; return the closure's value, if one is given."""
{closure}
{update}
        return loss
'''

CLOSURE = """\
        if closure is not None:
            with torch.enable_grad():
                loss = closure()"""

LOAD = '''\
    def load_state_dict(self, state_dict):
        """Load a checkpoint; state keeps the types that it was saved in, and groups what they were not saved with."""
        super().load_state_dict(state_dict)
{fill}        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        places = [(p, group) for group in self.param_groups for p in group["params"]]
        for key, (p, group) in zip(keys, places, strict=True):
            loaded, saved = self.state.pop(p, {{}}), state_dict["state"].get(key) or {{}}
            fresh = self._state(p, group) if saved else {{}}
            for name, begun in fresh.items():
                value = saved.get(name)
                value = torch.tensor(value, dtype=begun.dtype) if isinstance(value, float | int) else value
                if not torch.is_tensor(value) or value.shape != begun.shape:
                    raise ValueError(f"the saved state of parameter {{key}} has no {{name}} of {{tuple(begun.shape)}}")
                device = "cpu" if name in {host} else p.device
                loaded[name] = value.detach().to(device, copy=True)
            self.state[p] = loaded
{more}'''

BRIEF = """\
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for key, p in zip(keys, (p for group in self.param_groups for p in group["params"]), strict=True):
            for name, value in state_dict["state"].get(key, {{}}).items():
                if torch.is_tensor(value):
                    device = "cpu" if name in {host} else p.device
                    self.state[p][name] = value.detach().to(device, copy=True)
{more}"""
ADD_BRIEF, LOOK = (
    """\
    def add_param_group(self, param_group):
        \"\"\"Add a group, after a look at its numbers.\"\"\"
{defaults}
{checks}
        super().add_param_group(param_group)
""",
    """\
        for group in self.param_groups:
            self._look(group)
""",
)
"""How a file loads, and adds groups, that would be too long with a look at checkpoints and one at every step."""

SHARED = '''\
    def _shared(self, name, init):
        """Return the tensor of a number that all parameters share."""
        held = [own[name] for own in self.state.values() if name in own]
        device = self.param_groups[0]["params"][0].device
        return held[0] if held else torch.full((), init, dtype=torch.float64, device=device)
'''

STATE = '''\
    def _state(self, p, group):
        """Return the state of a parameter, which begins with its first step."""
        if not self.state[p]:
{begun}
        return self.state[p]
'''

__all__ = ["ADD", "ADD_BRIEF", "BRIEF", "CLOSURE", "INIT", "LOAD", "LOOK", "SHARED", "STATE", "STEP"]
