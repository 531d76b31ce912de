"""One real node: containerd, kubelet, kube-proxy and kube-scheduler in a machine of their own, and DNS as pods."""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from node import binaries
from node.images import PAUSE, Images
from node.machine import Machine, Service
from support.waiting import await_that

NAME: Final = "node-1"
COREDNS: Final = "docker.io/library/coredns:e2e"
_DNS_ADDRESS: Final = "10.96.0.10"
_PODS: Final = "10.244.0.0/24"
_SOCKET: Final = "/run/containerd/containerd.sock"
_NETWORK: Final = "/run/cni/net.d"
_START_S: Final = 120.0
_CNI: Final = {
    "cniVersion": "1.0.0",
    "name": "node",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            # A pod that reaches itself through a Service.
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": _PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
_RUNTIME: Final = 'plugins."io.containerd.cri.v1.runtime"'


class Node:
    """The node's programs."""

    def __init__(self, machine: Machine, plane: Any, images: Images) -> None:
        """Remember what to start.

        Args:
            machine: Where it runs; started.
            plane: The `ControlPlane` that it joins.
            images: Keeps containerd's root.
        """
        self.machine, self.plane, self.images = machine, plane, images
        self._programs = binaries.containerd.build()
        files = self._write_files()
        path = f"PATH={self._programs}:/usr/sbin:/usr/bin:/sbin:/bin"
        server, config = str(plane.binary), f"--kubeconfig={plane.kubeconfig}"
        self.containerd = self._service("env", path, "containerd", f"--config={files['containerd.toml']}")
        self.kubelet = self._service(
            *(server, "kubelet", config, f"--config={files['kubelet.yaml']}"),
            *(f"--hostname-override={NAME}", f"--node-ip={machine.address}"),
        )
        self.proxy = self._service(server, "kube-proxy", f"--config={files['proxy.yaml']}")
        self.scheduler = self._service(server, "kube-scheduler", config, "--leader-elect=false", "--secure-port=0")

    def start(self) -> None:
        """Start everything and wait until the node is ready."""
        self.containerd.start()
        await_that(self._serves, f"containerd: {self.containerd.log}", _START_S)
        self._forget_containers()
        self.images.build_program(PAUSE, binaries.pause(self.machine.folder))
        self.load(PAUSE)
        for each in (self.scheduler, self.proxy, self.kubelet):
            each.start()
        await_that(self.is_ready, f"a ready node: {self.kubelet.log}", _START_S)

    def start_dns(self) -> None:
        """Start CoreDNS as a Deployment and wait until it answers its readiness probe."""
        self.images.build_program(COREDNS, binaries.coredns.build() / "coredns")
        self.load(COREDNS)
        manifest = (Path(__file__).parent / "coredns.yaml").read_text()
        self.plane.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
        self.plane.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=50s")

    def load(self, image: str) -> None:
        """Give an image that was built to containerd."""
        known = set(self._ctr("content", "ls", "--quiet").split())
        command = [*self.machine.inside(processes=True), *self._ctr_command("images", "import", "--local", "-")]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            self.images.stream(image, known, child.stdin)
            child.stdin.close()
            told = child.stdout.read().decode()
        assert child.returncode == 0, f"import of {image}: {told}"
        self._forget_replaced()
        self.images.share(image)

    def is_ready(self) -> bool:
        """Return whether the API server calls it ready."""
        for each in (self.containerd, self.kubelet, self.proxy, self.scheduler):
            assert each.is_running, f"{each.log} ended: {each.tail()}"
        with self.plane.client() as client:
            nodes = client.get("/api/v1/nodes").raise_for_status().json()["items"]
        conditions = [each for node in nodes for each in node["status"].get("conditions", [])]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _service(self, *command: str) -> Service:
        name = next(each for each in command if not each.startswith(("/", "PATH=")) and each != "env")
        return Service(self.machine, name, command)

    def _serves(self) -> bool:
        assert self.containerd.is_running, f"containerd ended: {self.containerd.tail()}"
        whole = [*self.machine.inside(processes=True), *self._ctr_command("version")]
        return subprocess.run(whole, capture_output=True, check=False).returncode == 0

    def _forget_replaced(self) -> None:
        """Remove images that lost their name to a newer one; the kubelet's interface keeps them by their digest."""
        rows = [line.split() for line in self._ctr("images", "ls").splitlines()[1:]]
        named = {row[2] for row in rows if not row[0].startswith("sha256:")}
        replaced = [row[0] for row in rows if row[2] not in named]
        if replaced:
            self._ctr("images", "delete", "--sync", *replaced)

    def _forget_containers(self) -> None:
        """Remove what a run before this one left in containerd's root; its processes are long gone."""
        left = self._ctr("containers", "ls", "--quiet").split()
        if left:
            self._ctr("containers", "delete", *left)
            self.containerd.kill()
            self.containerd.start()
            await_that(self._serves, f"containerd: {self.containerd.log}", _START_S)

    def _ctr(self, *arguments: str) -> str:
        return self.machine.run(*self._ctr_command(*arguments))

    def _ctr_command(self, *arguments: str) -> tuple[str, ...]:
        return (str(self._programs / "ctr"), f"--address={_SOCKET}", "--namespace=k8s.io", *arguments)

    def _write_files(self) -> dict[str, Path]:
        network = self.machine.own(_NETWORK)
        network.mkdir(parents=True, exist_ok=True)
        (network / "10-node.conflist").write_text(json.dumps(_CNI))
        contents = {
            "containerd.toml": self._containerd_config(),
            "kubelet.yaml": yaml.safe_dump(self._kubelet_config()),
            "proxy.yaml": yaml.safe_dump(self._proxy_config()),
        }
        files = {name: self.machine.folder / name for name in contents}
        for name, path in files.items():
            path.write_text(contents[name])
        return files

    def _containerd_config(self) -> str:
        return f"""version = 3
root = "{self.images.containerd_root}"
state = "/run/containerd"
[grpc]
  address = "{_SOCKET}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"
[{_RUNTIME}]
  # Without CAP_SYS_RESOURCE no process may be made less likely to be killed than this one.
  restrict_oom_score_adj = true
[{_RUNTIME}.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{_NETWORK}"
"""

    def _kubelet_config(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.machine.address,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.machine.cgroup}",
            "clusterDNS": [_DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "enforceNodeAllocatable": [],
            # The disk is this machine's; how full it is says nothing about the pods.
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
            "failCgroupV1": False,
            "failSwapOn": False,
            "resolvConf": "/etc/resolv.conf",
            # How soon a pod sees a Secret that changed.
            "syncFrequency": "5s",
        }

    def _proxy_config(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": _PODS,
            "clientConnection": {"kubeconfig": str(self.plane.kubeconfig)},
            "hostnameOverride": NAME,
            # The limits of connections are the whole machine's.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
