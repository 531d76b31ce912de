"""FAULTS 27 to 33."""

from proof.row import OPERATOR, Edit, Row

_TESTS = "tests/control_plane/test_faults_lifecycle.py"

LIFECYCLE = (
    Row(
        fault="f27",
        tests=(
            f"{_TESTS}::test_f27_a_quota_that_refuses_the_job_is_told_and_it_starts_by_itself_once_there_is_room",
            f"{_TESTS}::test_f27_a_limit_that_refuses_the_pods_is_told_and_they_start_by_themselves_once_there_is_room",
            f"{_TESTS}::test_f27_a_quota_that_refuses_the_pods_is_told_with_its_name",
        ),
        edits=(
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text="                self._children.block(view, error)\n",
                replacement="                raise\n",
                why="a refusal of the Job is told, and the Job is posted again",
            ),
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text='"" if pods or purpose != "pending" else await self._refusal_of_pods(job)',
                replacement='""',
                why="a refusal of the pods is looked for in the Job's events",
            ),
        ),
    ),
    Row(
        fault="f28",
        tests=(f"{_TESTS}::test_f28_a_job_that_no_node_can_take_is_told_once_and_costs_no_writes",),
        edits=(
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text="_LOOK_AGAIN_S = 60.0\n",
                replacement="_LOOK_AGAIN_S = 2.0\n",
                why="pods that wait are looked at rarely",
            ),
            Edit(
                file=f"{OPERATOR}/status.py",
                text=(
                    '        if not changes and self.old.get("observedGeneration") in {None, self._generation}:\n'
                    "            return None\n"
                ),
                replacement="",
                why="what stands in the status already is not written again",
            ),
        ),
    ),
    Row(
        fault="f29",
        tests=(f"{_TESTS}::test_f29_an_image_that_cannot_be_pulled_ends_the_job_after_a_while_and_never_restarts",),
        edits=(
            Edit(
                file=f"{OPERATOR}/living.py",
                text=(
                    "    if why.fatal is not None and waited_s >= settings.image_pull_s:\n"
                    "        return ending.stop(decision, job, Failure.of(why.fatal, why.message, why.remedy), view)\n"
                ),
                replacement=(
                    "    if why.fatal is not None:\n"
                    "        decision.delete.append(job)\n"
                    "        failure = Failure.of(why.fatal, why.message, why.remedy)\n"
                    "        return ending.restart(decision, failure, view, settings, counted=True)\n"
                ),
                why="an image gets time to appear, and then no restart",
            ),
        ),
    ),
    Row(
        fault="f30",
        tests=(f"{_TESTS}::test_f30_in_a_namespace_that_is_being_deleted_it_falls_silent",),
        edits=(
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text="        except errors.NamespaceTerminating:\n            raise\n",
                replacement="",
                why="what a namespace that ends refuses is neither told nor posted again",
            ),
        ),
    ),
    Row(
        fault="f31",
        tests=(f"{_TESTS}::test_f31_a_job_deleted_while_its_children_are_made_leaves_nothing_over",),
        edits=(
            Edit(
                file=f"{OPERATOR}/app.py",
                text="                self.store.remove(record.key, record.uid, record.version)\n",
                replacement="                pass\n",
                why="a deleted FineTuneJob is forgotten",
            ),
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text=(
                    "        if self._store.vanished(record.uid) and not await self._still_there(record):\n"
                    "            return\n"
                ),
                replacement="",
                why="the owner of a Job that went away is asked for before another one is made",
            ),
        ),
    ),
    Row(
        fault="f32",
        tests=(f"{_TESTS}::test_f32_a_job_made_again_under_the_same_name_has_nothing_of_the_first_one",),
        edits=(
            Edit(
                file=f"{OPERATOR}/status_writer.py",
                text='            "metadata": {"resourceVersion": str(view.version), "uid": view.uid},\n',
                replacement='            "metadata": {},\n',
                why="a status is written onto the very object that was decided on",
            ),
        ),
    ),
    Row(
        fault="f33",
        tests=(f"{_TESTS}::test_f33_a_job_that_somebody_elses_finalizer_holds_is_left_alone",),
        edits=(
            Edit(
                file=f"{OPERATOR}/reconcile.py",
                text="        if record is None or record.deleting:\n",
                replacement="        if record is None:\n",
                why="a job that is being deleted gets no pass",
            ),
            Edit(
                file=f"{OPERATOR}/lifecycle.py",
                text="    if view.deleting:\n        return decision\n",
                replacement="",
                why="nor a decision",
            ),
        ),
    ),
)
