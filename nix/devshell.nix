# nix develop: the tools for development, in the versions that the checks use.
{
  lib,
  pkgs,
  rust,
  ...
}:
{
  default = pkgs.mkShell {
    packages = [
      # The toolchain of the builds, and what editors need.
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
        cosign
        curl
        deadnix
        docker-client
        jq
        k3d
        kube-score
        kubectl
        kubectl-validate
        kubernetes-helm
        kustomize
        nixfmt
        openssl
        oras
        shellcheck
        shfmt
        skopeo
        statix
        zizmor
        zstd
        ;
    };

    shellHook = ''
      cat >&2 <<'EOF'
      cargo run              both services on this machine, with a throw-away CA
      cargo test --workspace the tests
      nix run .#cluster-up   a cluster with both services
      nix run .#e2e          the acceptance scenarios, here or in a cluster
      nix flake check        what CI checks
      EOF
    '';
  };
}
