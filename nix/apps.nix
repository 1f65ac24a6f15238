# nix run .#NAME: the scripts of nix/apps, each with exactly the tools that it
# names. Nothing comes from the user's PATH; the user's docker context and
# kubeconfig still say which daemon and which cluster.
{
  lib,
  packages,
  pkgs,
  rust,
  ...
}:
let
  # They share a file, and so stay together.
  scripts = lib.fileset.toSource {
    root = ./apps;
    fileset = ./apps;
  };

  # What is built, and not what a script would build.
  env = {
    # How one script tells people to run another.
    PING_PONG_CALL = "nix run .#";
    PING_PONG_BIN = "${rust.together}/bin";
    PING_PONG_IMAGES = "${packages.ponger-image} ${packages.pinger-image}";
    PING_PONG_K8S = "${../k8s}";
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
              gawk
              gnugrep
              gnused
            ]);
          runtimeEnv = lib.getAttrs needs env;
          inheritPath = false;
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
      description = "From nothing to `Got pong`: a k3d cluster, the images, certificates, both services";
      tools = [
        docker-client
        gnutar
        gzip
        k3d
        kubectl
        openssl
      ];
      needs = [
        "PING_PONG_CALL"
        "PING_PONG_IMAGES"
        "PING_PONG_K8S"
      ];
    };
    cluster-down = {
      description = "Removes the cluster that cluster-up made";
      tools = [
        docker-client
        k3d
        kubectl
      ];
    };
    logs = {
      description = "The last lines of both services; -f follows them";
      tools = [ kubectl ];
    };
    forward = {
      description = "Port 8080 of this machine is ponger: https://localhost:8080/ping";
      tools = [ kubectl ];
    };
    certs = {
      description = "Makes, renews or rotates the certificates while the services run";
      tools = [
        kubectl
        openssl
      ];
    };
    e2e = {
      description = "The acceptance scenarios, here or with --context in a cluster";
      tools = [
        docker-client
        kubectl
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
    program = lib.getExe packages.local;
    meta.description = "Both services on this machine, with a throw-away CA: no cluster";
  };
}
