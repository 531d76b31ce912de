"""What an administrator decides once; read from flags and environment at the rim, passed as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One value for the whole process. Times in seconds."""

    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; all of the cluster when empty."""
    trainer_image: str = "finetune-trainer:latest"
    """Image of the trainer; a digest is kept as it is."""
    image_pull_policy: str = ""
    """Pull policy when the manifest has none; Kubernetes' default when empty."""
    progress_url: str = ""
    """https address of the progress endpoint as pods see it; no progress is posted when empty."""
    progress_ca: str = ""
    """PEM of the endpoint's certificate authority."""
    progress_address: str = "127.0.0.1:0"
    """host:port that the endpoint listens on; port 0 takes any free one."""
    metrics_address: str = "127.0.0.1:0"
    """host:port of /metrics and /healthz, plain HTTP."""
    tls_certificate: str = ""
    """File with the endpoint's certificate chain, PEM."""
    tls_key: str = ""
    """File with its key, PEM."""
    workers: int = 16
    """Keys that are reconciled at the same time."""
    relist_every_s: float = 420.0
    """How often everything is listed anew, which drops ghosts and heals lost events."""
    watch_idle_s: float = 65.0
    """Silence of a watch, bookmarks included, after which it counts as dead; the API server sends one every 60 s."""
    rehearse_every_s: float = 30.0
    """How often the API server is asked, without storing anything, whether it takes writes; for /healthz."""
    progress_every_s: float = 10.0
    """Least time between two status writes that carry progress alone, per job."""
    status_writes_per_s: float = 20.0
    """Progress writes of all jobs together; others are never held back."""
    stale_after_s: float = 300.0
    """Silence of a running trainer before condition ProgressStale."""
    pending_look_s: float = 30.0
    """How long pods may be pending before they are looked at."""
    restart_backoff_s: float = 10.0
    """Wait before the first restart; doubled each time, at most restart_backoff_limit_s."""
    restart_backoff_limit_s: float = 300.0
    """Longest wait before a restart."""
    node_lost_s: float = 300.0
    """How long a pod of a lost node may keep a gang from ending before the attempt is given up."""
    image_pull_s: float = 300.0
    """How long an image may fail to be pulled before the job is Failed with ImagePullFailed."""
    retry_limit_s: float = 30.0
    """Longest wait before a key that failed is tried again."""
    refused_limit_s: float = 60.0
    """Longest wait before an object that a quota refused is posted again."""
    default_requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "1", "memory": "2Gi"})
    """Requests of a trainer whose manifest has none."""
    default_storage_size: str = "20Gi"
    """Size of the work claim when the manifest has none."""
    gpu_resources: tuple[str, ...] = ("nvidia.com/gpu", "amd.com/gpu")
    """Resource names whose count sets the processes per node; nvidia.com/mig-* counts too."""
