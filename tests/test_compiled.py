import jax
import pytest

from jaxocr import compiled


@pytest.fixture(name="unset")
def fixture_unset(monkeypatch):
  """JAX without a folder, as it starts; the tests' own comes back."""
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = {name: getattr(jax.config, name) for name in names}
  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.delenv(compiled.FOLDER_VARIABLE, raising=False)
  yield monkeypatch
  for name, value in before.items():
    jax.config.update(name, value)


def test_a_folder_that_was_chosen_stays(tmp_path, unset):
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  unset.setenv(compiled.FOLDER_VARIABLE, str(tmp_path / "other"))
  assert compiled.keep() == tmp_path
  assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_where_programs_are_kept(tmp_path, unset):
  unset.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert compiled.keep() == tmp_path / "jaxocr"
  assert (tmp_path / "jaxocr").is_dir()
  jax.config.update("jax_compilation_cache_dir", None)
  unset.setenv(compiled.FOLDER_VARIABLE, str(tmp_path / "mine"))
  assert compiled.keep() == tmp_path / "mine"
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_nothing_is_kept_where_that_is_said_or_impossible(tmp_path, unset):
  unset.setenv(compiled.FOLDER_VARIABLE, "")
  assert compiled.keep() is None
  (tmp_path / "file").touch()
  unset.setenv(compiled.FOLDER_VARIABLE, str(tmp_path / "file" / "below"))
  assert compiled.keep() is None
  assert jax.config.jax_compilation_cache_dir is None
