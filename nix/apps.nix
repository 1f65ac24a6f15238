# nix run .#NAME: the scripts of nix/apps, each with the tools that it names.
# They come first on PATH; the user's own follow, for a kubeconfig's credential
# plugins, for ssh to a remote Docker daemon and for --loader.
{
  lib,
  packages,
  pkgs,
  rust,
  ...
}:
let
  # In one folder: they share a file and call each other.
  scripts = lib.fileset.toSource {
    root = ./apps;
    fileset = ./apps;
  };

  # What is built already, so that no script builds it.
  env = {
    # How messages name another script.
    PING_PONG_CALL = "nix run .#";
    PING_PONG_BIN = "${rust.allBinaries}/bin";
    PING_PONG_IMAGES = "${packages.ponger-image} ${packages.pinger-image}";
    # Of the same nixpkgs as kubectl. An image's tag cannot have a plus sign.
    PING_PONG_K3S_IMAGE = "docker.io/rancher/k3s:v${
      lib.replaceStrings [ "+" ] [ "-" ] pkgs.k3s.version
    }";
    PING_PONG_K8S = "${../k8s}";
    PING_PONG_SBOM = "${packages.sbom}";
  };

  app =
    name:
    {
      description,
      tools ? [ ],
      needs ? [ ],
    }:
    {
      type = "app";
      program = lib.getExe (
        pkgs.writeShellApplication {
          inherit name;
          runtimeInputs =
            tools
            ++ (with pkgs; [
              bash
              coreutils
              diffutils
              gawk
              gnugrep
              gnused
            ]);
          runtimeEnv = lib.getAttrs needs env;
          text = ''exec ${scripts}/${name} "$@"'';
        }
      );
      meta = { inherit description; };
    };
in
lib.mapAttrs app (
  with pkgs;
  {
    cluster-up = {
      description = "Creates a k3d cluster, loads the images, makes certificates and deploys both services";
      tools = [
        docker-client
        gnutar
        gzip
        k3d
        kubectl
        openssl
        zstd
      ];
      needs = [
        "PING_PONG_CALL"
        "PING_PONG_IMAGES"
        "PING_PONG_K3S_IMAGE"
        "PING_PONG_K8S"
      ];
    };
    push = {
      description = "Pushes both images to a registry by digest, with bills of materials and signatures";
      tools = [
        cosign
        gnutar
        gzip
        jq
        oras
        skopeo
        zstd
      ];
      needs = [
        "PING_PONG_CALL"
        "PING_PONG_IMAGES"
        "PING_PONG_SBOM"
      ];
    };
    cluster-down = {
      description = "Removes the cluster that cluster-up created";
      tools = [
        docker-client
        k3d
        kubectl
      ];
    };
    logs = {
      description = "Prints the last log lines of both services; -f follows them";
      tools = [ kubectl ];
      needs = [ "PING_PONG_CALL" ];
    };
    forward = {
      description = "Forwards port 8080 of this machine to ponger: https://localhost:8080/ping";
      tools = [ kubectl ];
      needs = [ "PING_PONG_CALL" ];
    };
    certs = {
      description = "Makes, renews or rotates the certificates while the services run";
      tools = [
        kubectl
        openssl
      ];
      needs = [ "PING_PONG_CALL" ];
    };
    check = {
      description = "The whole system in a k3d cluster of its own, from nothing; then removes it";
      tools = [
        docker-client
        gnutar
        gzip
        k3d
        kubectl
        kubernetes-helm
        openssl
        zstd
      ];
      needs = [
        "PING_PONG_BIN"
        "PING_PONG_CALL"
        "PING_PONG_IMAGES"
        "PING_PONG_K3S_IMAGE"
        "PING_PONG_K8S"
      ];
    };
    e2e = {
      description = "Runs the acceptance scenarios, here or with --context in a cluster";
      tools = [
        docker-client
        kubectl
        kubernetes-helm
        openssl
      ];
      needs = [
        "PING_PONG_BIN"
        "PING_PONG_K8S"
      ];
    };
  }
)
// {
  default = {
    type = "app";
    program = lib.getExe packages.demo;
    meta.description = "Runs both services on this machine, with a throw-away CA and no cluster";
  };
}
