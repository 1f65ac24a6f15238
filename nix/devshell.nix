# nix develop: what the work needs, at the versions that the checks use.
{
  lib,
  pkgs,
  rust,
  ...
}:
{
  default = pkgs.mkShell {
    packages = [
      # The same toolchain as the builds', and an editor's needs.
      (rust.channel.default.override {
        extensions = [
          "rust-analyzer"
          "rust-src"
        ];
      })
    ]
    ++ lib.attrValues {
      promtool = pkgs.prometheus.cli;
      inherit (pkgs)
        cargo-audit
        cargo-deny
        curl
        deadnix
        docker-client
        jq
        k3d
        kubectl
        kubectl-validate
        kubernetes-helm
        kustomize
        nixfmt
        openssl
        shellcheck
        shfmt
        statix
        zizmor
        ;
    };

    shellHook = ''
      cat >&2 <<'EOF'
      cargo run              both services here, with a throw-away CA
      cargo test --workspace what must hold
      nix run .#cluster-up   a cluster from nothing to "Got pong"
      nix run .#e2e          the acceptance scenarios, here or in a cluster
      nix flake check        everything that CI asks
      EOF
    '';
  };
}
