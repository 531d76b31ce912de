"""FAULTS 34 to 39."""

from proof.row import OPERATOR, Edit, Row

_DEFINITION = "tests/control_plane/test_faults_definition.py"
_TESTS = "tests/control_plane/test_faults_input.py"

INPUT = (
    Row(
        fault="f34",
        tests=(f"{_DEFINITION}::test_f34_a_definition_that_is_deleted_and_made_again_is_served_as_before",),
        edits=(
            Edit(
                file=f"{OPERATOR}/handlers.py",
                text=(
                    "                while not self._is_served():\n"
                    "                    if self._stop.wait(1.0):\n"
                    "                        return\n"
                ),
                replacement="                self._is_served()\n",
                why="kopf, which never sees what is defined after its start, waits for the definition",
            ),
        ),
    ),
    Row(
        fault="f35",
        tests=(f"{_TESTS}::test_f35_what_a_cluster_cannot_do_ends_the_job_and_others_go_on",),
        edits=(
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text="            problems = unsupported(job)\n",
                replacement="            problems = ()\n",
                why="what no pod can do is found before the Job is made",
            ),
        ),
    ),
    Row(
        fault="f35-shapes",
        tests=(f"{_DEFINITION}::test_f35_a_spec_that_no_schema_held_back_ends_its_job_whatever_it_is",),
        edits=(
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text="            view = replace(view, spec={}, problems=_problems(manifest))\n",
                replacement="            raise\n",
                why="a spec that cannot be read counts as an empty one with problems",
            ),
        ),
    ),
    Row(
        fault="f36",
        tests=(f"{_TESTS}::test_f36_a_spec_of_a_megabyte_is_refused_at_admission[one-text]",),
        edits=(
            Edit(
                file="crds/finetunejobs.finetune.dev.yaml",
                text="                    maxLength: 512\n                    pattern: ^[A-Za-z0-9_][A-Za-z0-9_.-]*(?",
                replacement="                    pattern: ^[A-Za-z0-9_][A-Za-z0-9_.-]*(?",
                why="every text of the definition has a bound",
            ),
        ),
        own_cluster=True,
    ),
    Row(
        fault="f37",
        tests=(f"{_TESTS}::test_f37_names_of_every_length_have_children_of_their_own",),
        edits=(
            Edit(
                file=f"{OPERATOR}/plan/identity.py",
                text="    if len(name) <= _MAX_LABEL:\n        return name\n",
                replacement="    if name:\n        return name\n",
                why="a name that is too long for a label is shortened",
            ),
        ),
    ),
    Row(
        fault="f38",
        tests=(
            f"{_TESTS}::test_f38_a_hostile_text_of_a_manifest_or_a_trainer_is_literal_and_escaped_where_people_read_it",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/plan/environment.py",
                text='    return value.replace("$", "$$")\n',
                replacement="    return value\n",
                why="Kubernetes expands nothing in a manifest's text",
            ),
        ),
    ),
    Row(
        fault="f38-escaped",
        tests=(
            f"{_TESTS}::test_f38_a_hostile_text_of_a_manifest_or_a_trainer_is_literal_and_escaped_where_people_read_it",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/diagnose_text.py",
                text="    if character.isprintable():\n",
                replacement="    if character:\n",
                why="what a container wrote is escaped",
            ),
            Edit(
                file=f"{OPERATOR}/status.py",
                text=" if each.isprintable() or each == ",
                replacement=" if each or each == ",
                why="so is every message of a status or an event",
            ),
        ),
    ),
    Row(
        fault="f39",
        tests=(f"{_TESTS}::test_f39_a_clock_that_is_an_hour_off_ends_nothing_early_and_nothing_late",),
        edits=(
            Edit(
                file=f"{OPERATOR}/cluster.py",
                text="        self._offset_s = 0.0 if abs(offset_s) < _CLOCK_NOISE_S else offset_s\n",
                replacement="        del offset_s\n",
                why="the time is the API server's",
            ),
        ),
    ),
)
