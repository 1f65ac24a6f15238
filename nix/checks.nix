# nix flake check: every package, and the checks on them. CI runs it; `.ci/run` is
# the check for a machine without Nix. This one adds what takes Nix: hermetic
# builds, the images, equal bytes when built again, the dev shell, statix, the
# manifests' schemas and a cluster of virtual machines. That one adds the README's
# own commands, a current advisory database and a cluster of containers.
args@{
  inputs,
  lib,
  packages,
  pkgs,
  rust,
  self,
  system,
  ...
}:
let
  inherit (rust) craneLib workspace;

  # Only whether a check passes matters: what it built is not kept.
  checkArgs = rust.checkArgs // {
    doInstallCargoArtifacts = false;
  };

  # These files alone, where they are in the repository.
  sourceOf =
    files:
    lib.fileset.toSource {
      root = ../.;
      fileset = lib.fileset.unions files;
    };

  # What is not Rust, without prose.
  tree = sourceOf [
    ../.github
    ../flake.lock
    ../flake.nix
    ../nix
    ../.ci
  ];

  # The same program, built a second time in another derivation, and so are its
  # dependencies.
  twice =
    drv:
    drv.overrideAttrs (old: {
      name = "${old.pname}-again";
    });
  depsAgain = twice packages.ponger.cargoArtifacts;
  again = name: (twice packages.${name}).overrideAttrs { cargoArtifacts = depsAgain; };
in
# Every package and the dev shell, so that a broken one is noticed.
removeAttrs packages [ "default" ]
// {
  devshell = self.devShells.${system}.default;

  tests = craneLib.cargoTest (
    checkArgs
    // {
      # Tests run the original project's commands, promtool on the metrics, and a Prometheus that scrapes them.
      nativeCheckInputs = [
        pkgs.curl
        pkgs.openssl
        pkgs.prometheus
        pkgs.prometheus.cli
      ];
    }
  );
  # Each alert, raised by a fault in a running system: it takes half a minute and an idle machine.
  alerts-live = craneLib.cargoTest (
    checkArgs
    // {
      pname = "ping-pong-alerts";
      cargoTestExtraArgs = "--test it -- --ignored";
      nativeCheckInputs = [ pkgs.prometheus ];
    }
  );
  clippy = craneLib.cargoClippy (
    checkArgs
    // {
      cargoClippyExtraArgs = "--all-targets -- --deny warnings";
    }
  );
  docs = craneLib.cargoDoc (checkArgs // { env.RUSTDOCFLAGS = "--deny warnings"; });
  rustfmt = craneLib.cargoFmt (
    rust.common
    // {
      src = workspace;
      doInstallCargoArtifacts = false;
    }
  );
  deny = craneLib.cargoDeny (rust.common // { src = workspace; });
  audit = craneLib.cargoAudit (
    rust.common
    // {
      src = workspace;
      inherit (inputs) advisory-db;
    }
  );

  lint =
    pkgs.runCommand "check-lint"
      {
        nativeBuildInputs = [
          pkgs.deadnix
          pkgs.jq
          pkgs.nixfmt
          pkgs.shellcheck
          pkgs.shfmt
          pkgs.statix
          pkgs.zizmor
        ];
      }
      ''
        bash ${tree}/nix/tests/lint
        bash ${tree}/nix/tests/lock
        statix check ${tree}
        zizmor --offline --pedantic ${tree}/.github/workflows
        touch $out
      '';

  # The rules for Prometheus, against their tests.
  alerts = pkgs.runCommand "check-alerts" { nativeBuildInputs = [ pkgs.prometheus.cli ]; } ''
    bash ${
      sourceOf [
        ../k8s/components/monitoring
        ./tests/alerts
      ]
    }/nix/tests/alerts
    touch $out
  '';

  # The Helm chart, against what Kustomize renders.
  chart =
    pkgs.runCommand "check-chart"
      {
        nativeBuildInputs = [
          pkgs.kube-score
          pkgs.kubectl
          pkgs.kubernetes-helm
          (pkgs.python3.withPackages (python: [ python.pyyaml ]))
        ];
      }
      ''
        export HOME=$TMPDIR
        python3 ${
          sourceOf [
            ../Cargo.toml
            ../k8s
            ./tests/chart
          ]
        }/nix/tests/chart
        touch $out
      '';

  # Images, indices, bills of materials and signatures, pushed to a registry on this machine.
  push =
    pkgs.runCommand "check-push"
      {
        nativeBuildInputs = [
          pkgs.cosign
          pkgs.distribution
          pkgs.jq
          pkgs.openssl
          pkgs.oras
          pkgs.skopeo
          pkgs.zstd
        ];
      }
      ''
        bash ${
          sourceOf [
            ../Cargo.toml
            ../k8s
            ./apps
            ./tests/push
          ]
        }/nix/tests/push
        touch $out
      '';

  images =
    pkgs.runCommand "check-images"
      {
        nativeBuildInputs = [
          pkgs.jq
          pkgs.zstd
        ];
      }
      ''
        bash ${./tests/image} ponger ${packages.ponger-image}
        bash ${./tests/image} pinger ${packages.pinger-image}
        touch $out
      '';

  # Against the schemas of the newest Kubernetes that the tool carries: 1.30,
  # which is the oldest that the manifests support. Without the objects of
  # cert-manager and trust-manager, which `.ci/cluster --all` validates.
  manifests-valid =
    pkgs.runCommand "check-manifests" { nativeBuildInputs = [ pkgs.kubectl-validate ]; }
      ''
        mkdir manifests
        for file in ${packages.manifests}/*.yaml; do
          awk 'BEGIN { RS = ORS = "---\n" } !/^apiVersion: .*cert-manager.io/' "$file" >"manifests/''${file##*/}"
        done
        kubectl-validate manifests
        touch $out
      '';

  # Fails if one of fifty pings is lost.
  demo-run = pkgs.runCommand "check-demo" { } ''
    export HOME=$TMPDIR
    ${lib.getExe packages.demo} --count 50 --interval 20ms
    touch $out
  '';

  # The acceptance scenarios that need no cluster.
  scenarios = pkgs.runCommand "check-scenarios" { nativeBuildInputs = [ pkgs.openssl ]; } ''
    export HOME=$TMPDIR
    ${rust.allBinaries}/bin/e2e
    touch $out
  '';

  # `certs` killed between any two of its changes is finished by the next run.
  certs =
    pkgs.runCommand "check-certs"
      {
        nativeBuildInputs = [
          pkgs.openssl
          pkgs.python3
        ];
      }
      ''
        python3 ${
          sourceOf [
            ./apps
            ./tests/certs
          ]
        }/nix/tests/certs
        touch $out
      '';

  # Two builds of the same sources, dependencies included, give the same bytes.
  reproducible = pkgs.runCommand "check-reproducible" { } (
    lib.concatMapStrings
      (name: ''
        cmp ${lib.getExe packages.${name}} ${lib.getExe (again name)}
      '')
      [
        "ponger"
        "pinger"
      ]
    + "touch $out"
  );
}
// lib.optionalAttrs (system == "x86_64-linux") {
  cluster = import ./cluster-test.nix args;
}
