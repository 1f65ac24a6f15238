# The Rust builds: one toolchain, a source for each crate, and the dependencies
# built once for the programs and once for the checks.
{
  inputs,
  lib,
  pkgs,
}:
let
  manifest = lib.importTOML ../Cargo.toml;

  # The rust-version of Cargo.toml is what we build with, so that it is tested.
  channel =
    (inputs.rust-overlay.lib.mkRustBin { } pkgs).stable."${manifest.workspace.package.rust-version}.0";
  toolchain = channel.minimal.override {
    extensions = [
      "clippy"
      "rustfmt"
    ];
    targets = [ target ];
  };
  craneLib = (inputs.crane.mkLib pkgs).overrideToolchain (_: toolchain);

  # Programs are static: an image is one file, without libc, loader or shell.
  musl = pkgs.pkgsStatic.stdenv;
  target = musl.hostPlatform.rust.rustcTarget;
  static =
    let
      name = lib.replaceStrings [ "-" ] [ "_" ] target;
      tool = "${musl.cc}/bin/${musl.cc.targetPrefix}";
    in
    {
      CARGO_BUILD_TARGET = target;
      # Without AES-GCM for AVX-512, whose code is 700 kB (75 kB compressed). That for AES-NI and AVX does
      # as well for messages as short as a ping. nix/apps/images builds so, too.
      AWS_LC_SYS_CFLAGS = "-DMY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX";
      "CARGO_TARGET_${lib.toUpper name}_LINKER" = "${tool}cc";
      "CC_${name}" = "${tool}cc";
      "CXX_${name}" = "${tool}c++";
      "AR_${name}" = "${tool}ar";
    };

  crates = lib.mapAttrs (name: _: lib.importTOML ../services/${name}/Cargo.toml) (
    lib.filterAttrs (_: type: type == "directory") (builtins.readDir ../services)
  );
  isProgram = name: lib.pathExists ../services/${name}/src/main.rs;
  programs = lib.filter isProgram (lib.attrNames crates);

  # A crate and the workspace's crates that its manifest names, those for its
  # tests too: cargo reads their manifests even when it builds none of them.
  closure =
    name:
    map (crate: crate.key) (
      builtins.genericClosure {
        startSet = [ { key = name; } ];
        operator =
          { key }:
          map (key: { inherit key; }) (
            lib.attrNames (
              lib.intersectAttrs crates (
                crates.${key}.dependencies or { } // crates.${key}.dev-dependencies or { }
              )
            )
          );
      }
    );

  sourceOf =
    files:
    lib.fileset.toSource {
      root = ../.;
      fileset = lib.fileset.unions (
        [
          # It says how aws-lc is built.
          ../.cargo/config.toml
          ../Cargo.lock
          ../Cargo.toml
        ]
        ++ files
      );
    };
  # Without prose: a change there must not rebuild a program.
  code = lib.fileset.fileFilter (file: !file.hasExt "md");
  # Of a program, without its tests: they must not rebuild it either.
  program = crate: lib.fileset.difference (code crate) (lib.fileset.maybeMissing (crate + "/tests"));
  workspace = sourceOf [
    (code ../services)
    ../.cargo
    ../clippy.toml
    ../deny.toml
    ../.rustfmt.toml
    # Tests compare the documentation and the manifests with the code.
    ../README.md
    ../services/README.md
    ../k8s
  ];

  common = {
    pname = "ping-pong";
    inherit (manifest.workspace.package) version;
    strictDeps = true;
  };

  # One call for each program: cargo unifies the features of what it builds in
  # one call, and a program alone would need its dependencies with others.
  programDeps = craneLib.buildDepsOnly (
    common
    // static
    // {
      pname = "ping-pong-programs";
      src = workspace;
      buildPhaseCargoCommand = lib.concatMapStringsSep "\n" (
        name: "cargoWithProfile build --locked -p ${name}"
      ) programs;
      # A check runs the tests.
      doCheck = false;
    }
  );

  build =
    name:
    craneLib.buildPackage (
      common
      // static
      // {
        pname = name;
        src = sourceOf (map (crate: program ../services/${crate}) (closure name));
        cargoArtifacts = programDeps;
        # Cargo fails on a default member that is missing.
        postPatch = "sed -i '/^default-members/d' Cargo.toml";
        # Not --locked, since the lock names crates that this source leaves out.
        # Versions cannot change: only the vendored ones are available.
        cargoExtraArgs = "-p ${name}";
        doCheck = false;
        meta = {
          inherit (crates.${name}.package) description;
          license = lib.licenses.mit;
          mainProgram = name;
        };
      }
    );

  built = lib.genAttrs programs build;

  # As in `cargo test` outside of Nix: the same profile, the same libc.
  checkArgs = common // {
    src = workspace;
    cargoExtraArgs = "--locked --workspace";
    CARGO_PROFILE = "dev";
  };
in
{
  inherit
    channel
    common
    craneLib
    manifest
    target
    workspace
    ;
  programs = built;
  # Copies, since e2e looks for the services in its own folder.
  allBinaries = pkgs.runCommand "ping-pong" { } (
    "mkdir -p $out/bin\n"
    + lib.concatMapStrings (name: "cp ${lib.getExe built.${name}} $out/bin/\n") programs
  );
  checkArgs = checkArgs // {
    cargoArtifacts = craneLib.buildDepsOnly checkArgs;
  };
}
