# nix flake check: everything that is built, and everything that must hold of it.
{
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

  # A check's result is that it passes, and not what it built.
  checkArgs = rust.checkArgs // {
    doInstallCargoArtifacts = false;
  };

  # What is not Rust, for those who read it; prose again left out.
  tree = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../.github
      ../flake.lock
      ../flake.nix
      ../nix
      ../.ci
    ];
  };

  # The same program, built a second time in another derivation.
  again =
    name:
    packages.${name}.overrideAttrs {
      name = "${name}-again";
    };
in
# Every package and the dev shell, so that none rots unseen.
removeAttrs packages [ "default" ]
// {
  devshell = self.devShells.${system}.default;

  tests = craneLib.cargoTest (
    checkArgs
    // {
      # The original's own commands, and who reads our metrics.
      nativeCheckInputs = [
        pkgs.curl
        pkgs.openssl
        pkgs.prometheus.cli
      ];
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
      # Yanked is for the index to say, and there is none in a sandbox.
      cargoAuditExtraArgs = "--no-yanked";
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

  images = pkgs.runCommand "check-images" { nativeBuildInputs = [ pkgs.jq ]; } ''
    bash ${./tests/image} ponger ${packages.ponger-image}
    bash ${./tests/image} pinger ${packages.pinger-image}
    touch $out
  '';

  # Against the API server's own schemas, the newest that the tool carries.
  manifests-valid =
    pkgs.runCommand "check-manifests" { nativeBuildInputs = [ pkgs.kubectl-validate ]; }
      ''
        kubectl-validate ${packages.manifests}
        touch $out
      '';

  # Real processes, real certificates: not one of fifty pings may be lost.
  local-run = pkgs.runCommand "check-local" { } ''
    export HOME=$TMPDIR
    ${lib.getExe packages.local} --count 50 --interval 20ms
    touch $out
  '';

  # The acceptance scenarios that need no cluster.
  scenarios = pkgs.runCommand "check-scenarios" { nativeBuildInputs = [ pkgs.openssl ]; } ''
    export HOME=$TMPDIR
    ${rust.together}/bin/e2e
    touch $out
  '';

  # Bit for bit: what is in the images depends on nothing but its source.
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
