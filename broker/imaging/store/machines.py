"""The states of studies, publications and fetch jobs, and what may become of them."""

from broker.db.machine import GONE, NEW, Machine
from broker.imaging.store.tables import fetch_job, publication, recall, study

RECEIVING, COMPLETE, PACKING, DROPPING, MOVED = "receiving", "complete", "packing", "dropping", "moved"
DUE, WAITING, PUBLISHED, PARTIAL, FAILED, WITHDRAWN = (
    "due", "waiting_patient", "published", "partial", "failed", "withdrawn")
QUEUED, RUNNING, DONE, FETCH_FAILED = "queued", "running", "done", "failed"
WANTED, NEAR = "wanted", "near"

# `tier` is another matter: a study of tier origin is received, packed and published only after somebody settled a conflict of it.
STUDY = Machine("study", study.c.state, [
    (NEW, "sent", RECEIVING),
    (NEW, "fetched", COMPLETE),             # or listed by its origin
    (NEW, "divided", COMPLETE),             # a further part, for another patient
    (NEW, "found packed", COMPLETE),        # its rows were lost, its container was not
    (COMPLETE, "superseded", DROPPING),     # so was an older container, which is not needed any more
    (RECEIVING, "sent", RECEIVING),
    (COMPLETE, "sent", RECEIVING),
    (PACKING, "sent", RECEIVING),           # `switch` finds that it is not what was packed
    (DROPPING, "sent", RECEIVING),
    (RECEIVING, "quiet", COMPLETE),         # for `quiet_seconds`
    (RECEIVING, "asked for", COMPLETE),     # an operator publishes it
    (COMPLETE, "begun to pack", PACKING),
    (PACKING, "packed", DROPPING),
    (PACKING, "not packed", COMPLETE),      # it failed, changed meanwhile, or there was nothing new
    (COMPLETE, "unused", DROPPING),         # a copy of what its origin keeps
    (DROPPING, "dropped", COMPLETE),
    (DROPPING, "damaged", COMPLETE),        # the container is: the online files stay
    (RECEIVING, "unpacked", RECEIVING),
    (COMPLETE, "unpacked", COMPLETE),
    (DROPPING, "unpacked", COMPLETE),
    *((state, "emptied", MOVED) for state in (RECEIVING, COMPLETE, PACKING, DROPPING)),     # all went to other parts
    (MOVED, "filled again", COMPLETE),
    *((state, "decision undone", MOVED) for state in (RECEIVING, COMPLETE, PACKING, DROPPING)),
    *((MOVED, "decision undone", state) for state in (RECEIVING, COMPLETE, PACKING, DROPPING)),
])

_TRIED = (DUE, WAITING, PARTIAL)            # what `claim` takes

PUBLICATION = Machine("publication", publication.c.state, [
    (NEW, "asked for", DUE),
    (NEW, "found packed", WAITING),         # as its container tells of it
    (NEW, "found registered", PUBLISHED),
    *((state, "asked for", DUE) for state in (PUBLISHED, PARTIAL, FAILED, WITHDRAWN)),
    *((state, "wanted at once", DUE) for state in (DUE, WAITING, PUBLISHED, PARTIAL, FAILED, WITHDRAWN)),
    *((state, "patient unknown", WAITING) for state in _TRIED),
    (WAITING, "patient known", DUE),
    *((state, "drafted", DUE) for state in _TRIED),
    *((state, "put off", DUE) for state in _TRIED),
    (PUBLISHED, "put off", DUE),            # accepted, but whether it still tells the truth could not be found out
    *((state, "refused", FAILED) for state in _TRIED),
    *((state, "without images", WITHDRAWN) for state in _TRIED),
    # whatever happened here meanwhile: the registry has it
    *((state, "accepted", PUBLISHED) for state in (DUE, WAITING, PUBLISHED, PARTIAL, FAILED, WITHDRAWN)),
    (PUBLISHED, "series missing", PARTIAL),
    (PUBLISHED, "asked for meanwhile", DUE),
    (PUBLISHED, "patient changed", DUE),
    (PARTIAL, "patient changed", DUE),
])

FETCH_JOB = Machine("fetch job", fetch_job.c.state, [
    (NEW, "asked for", QUEUED),
    (QUEUED, "claimed", RUNNING),
    (RUNNING, "given back", QUEUED),        # its owner stops
    (RUNNING, "abandoned", QUEUED),         # its owner does not beat any more
    (RUNNING, "ended", DONE),
    (RUNNING, "ended", FETCH_FAILED),
    (QUEUED, "refused", FETCH_FAILED),
    (DONE, "forgotten", GONE),
    (FETCH_FAILED, "forgotten", GONE),
])

# The copy of a packed study's container in the online tier. The container is the master: a copy comes and goes at any time.
RECALL = Machine("recall", recall.c.state, [
    (NEW, "asked for", WANTED),             # by an operator, by a pin, or because it is read often
    *((state, "asked for", state) for state in (WANTED, NEAR)),     # to stay longer
    (WANTED, "copied", NEAR),
    *((state, "packed again", WANTED) for state in (WANTED, NEAR)),     # its container is another one now
    (NEAR, "lost", WANTED),
    *((state, "over", GONE) for state in (WANTED, NEAR)),           # expired, room is needed, or the study is online again
])
