"""What `mixture` does not show of reading ahead."""

import grain
import pytest

from jaxocr.data import workers


def fail(element):
  raise RuntimeError(f"a fault in {element}")


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1])
def test_a_fault_is_not_told_as_a_killed_worker(count):
  elements = grain.MapDataset.range(4).map(fail)
  with pytest.raises(RuntimeError, match="a fault in 0"):
    list(workers.read_ahead(elements, count))
