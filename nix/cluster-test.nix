# checks.x86_64-linux.cluster: k3s on three virtual machines that reach no other
# network, cluster-up and the scenarios in it. It needs KVM.
{
  packages,
  pkgs,
  self,
  system,
  ...
}:
let
  app = name: self.apps.${system}.${name}.program;
  images = [
    packages.ponger-image
    packages.pinger-image
  ];

  node =
    role: k3s:
    {
      config,
      nodes,
      ...
    }:
    {
      virtualisation = {
        cores = 2;
        memorySize = 2048;
        diskSize = 8192;
      };
      networking.firewall.enable = false;
      services.k3s = {
        enable = true;
        inherit role;
        # Public, like everything in the store: for this test only.
        token = "ping-pong-cluster-test";
        images = [ config.services.k3s.package.airgap-images ] ++ images;
        nodeIP = config.networking.primaryIPAddress;
        # The default route leads to eth0, by which the machines do not reach each other.
        extraFlags = [ "--flannel-iface eth1" ];
      }
      // k3s nodes;
    };
  agent = node "agent" (nodes: {
    serverAddr = "https://${nodes.server.networking.primaryIPAddress}:6443";
  });
in
pkgs.testers.runNixOSTest {
  name = "ping-pong-cluster";
  # More than its steps normally take together, so that one that is too slow is named.
  globalTimeout = 2 * 60 * 60;

  nodes = {
    server = {
      imports = [
        (node "server" (_: {
          disable = [
            "local-storage"
            "metrics-server"
            "servicelb"
            "traefik"
          ];
        }))
      ];
      environment.sessionVariables.KUBECONFIG = "/etc/rancher/k3s/k3s.yaml";
    };
    agent1 = agent;
    agent2 = agent;
  };

  testScript = ''
    def kubectl(*commands):
        for command in commands:
            server.succeed(f"kubectl {command}")


    def kubectl_waits(command):
        server.wait_until_succeeds(f"kubectl {command} --timeout=10s")


    start_all()
    nodes = [server, agent1, agent2]
    for node in nodes:
        node.wait_for_unit("k3s")
        for image in "${toString (map (image: "${image.imageName}:${image.imageTag}") images)}".split():
            node.wait_until_succeeds(f"crictl inspecti docker.io/library/{image}")
    for node in nodes:
        kubectl_waits(f"wait --for=condition=Ready node/{node.name}")
    kubectl_waits("--namespace kube-system rollout status deployment/coredns")

    with subtest("cluster-up"):
        server.succeed("${app "cluster-up"} --context default >&2", timeout=900)

    # The one that stops a node is skipped, since the nodes are no containers: it is below.
    with subtest("scenarios"):
        server.succeed("${app "e2e"} --context default >&2", timeout=2400)

    with subtest("a node stops and returns"):
        # ponger on the agents, most often one on each, and pinger on the server.
        kubectl(
            "cordon server",
            "--namespace ping-pong rollout restart deployment/ponger",
            "--namespace ping-pong rollout status deployment/ponger --timeout=180s",
            "uncordon server",
            "cordon agent1 agent2",
            "--namespace ping-pong rollout restart deployment/pinger",
            "--namespace ping-pong rollout status deployment/pinger --timeout=180s",
            "uncordon agent1 agent2",
        )
        agent2.crash()
        kubectl_waits("wait --for=condition=Ready=Unknown node/agent2")
        server.wait_until_succeeds(
            "kubectl --namespace ping-pong logs deployment/pinger --since=5s >recent"
            " && grep 'Got pong' recent && ! grep 'Lost ping' recent"
        )
        agent2.start()
        kubectl_waits("wait --for=condition=Ready node/agent2")
        for service in ["ponger", "pinger"]:
            kubectl_waits(f"--namespace ping-pong rollout status deployment/{service}")
  '';
}
