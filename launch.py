"""Trains an experiment, or goes on with one that was stopped.

  python launch.py --experiment=bnn_crnn --cfg.steps=500 --workdir=runs/short

--list names the experiments; --experiment=NAME --help shows all that one takes.
Exit code: 0 finished, now or before; 1 error; 130 Ctrl-C; 143 SIGTERM.
"""

import importlib
import sys

from absl import app
from absl import flags
from ml_collections import config_flags

import experiments
from jaxocr import cpu
from jaxocr.train import configs
from jaxocr.train import distributed
from jaxocr.train import interrupt
from jaxocr.train import workdirs

FLAGS = flags.FLAGS
flags.DEFINE_string("experiment", None, "Which one; --list names them.")
flags.DEFINE_string("workdir", None, "Its folder; runs/EXPERIMENT by default.")
flags.DEFINE_bool("list", False, "Name the experiments and exit.")
flags.DEFINE_bool("restart", False, "Delete the run in the workdir first.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, of several.")
flags.DEFINE_integer("num_processes", None, "Processes that train together.")
flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


def define_config(config):
  """Defines --cfg.FIELD for every field; returns what parsing will change."""
  helps = configs.field_help(config, "cfg.")
  # Only fields in argv get a flag, so all of them are said to be there.
  config_flags.DEFINE_config_dataclass(
    "cfg", configs.thawed(config), sys_argv=["", *(f"--{n}=" for n in helps)]
  )
  for name, text in helps.items():
    FLAGS[name].help = text
    flags.declare_key_flag(name)  # So that --help has it, not only --helpfull.
  changed = FLAGS["cfg"].value
  del FLAGS.cfg  # The fields are the flags; --cfg alone would mean nothing.
  return changed


def launch(argv, module, changed):
  if argv[1:]:
    sys.exit(f"error: {argv[1]!r} is no flag; write --name=value")
  cpu.set_up()
  config = configs.frozen_like(module.Config(), changed)
  workdir = FLAGS.workdir or f"runs/{FLAGS.experiment}"
  with interrupt.plain_exit(ValueError, OSError):
    distributed.start(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    config.validate()
    workdirs.hold(workdir)
    report = workdirs.claim(workdir, FLAGS.experiment, config, FLAGS.restart)
  if report is not None:
    print(workdirs.finished_message(workdir, report))
    return
  with interrupt.plain_exit(interrupt.Stopped, workdirs.WorkdirError):
    module.run(config, workdir)


if __name__ == "__main__":
  with interrupt.plain_exit(flags.Error):
    FLAGS(sys.argv, known_only=True)  # --experiment says which others exist.
  name, known = FLAGS.experiment, experiments.descriptions()
  listing = "\n".join(f"  {n:20} {text}" for n, text in known.items())
  if FLAGS.list or (name is None and "--help" in sys.argv):
    print(f"{__doc__}\nExperiments:\n{listing}")
  elif name not in known:
    sys.exit(f"error: no experiment {name!r}; --experiment=\n{listing}")
  else:
    chosen = importlib.import_module(f"experiments.{name}")
    changed = define_config(chosen.Config())
    FLAGS.unparse_flags()
    app.run(lambda argv: launch(argv, chosen, changed))
