# The Rust side: one toolchain, a source for each crate, and the dependencies
# built once for the programs and once for the checks.
{
  inputs,
  lib,
  pkgs,
}:
let
  manifest = lib.importTOML ../Cargo.toml;

  # Cargo.toml's promise is what we build with, so that the promise is tested.
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

  # A crate and the crates of ours that its manifest names, those for its tests
  # too: cargo reads their manifests even when it builds none of them.
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
          ../Cargo.lock
          ../Cargo.toml
        ]
        ++ files
      );
    };
  # Prose is left out: a word in it must not rebuild a program.
  code = lib.fileset.fileFilter (file: !file.hasExt "md");
  # Of a program; what only tests read must not rebuild it either.
  program =
    crate:
    lib.fileset.difference (code crate) (
      lib.fileset.unions (
        map (folder: lib.fileset.maybeMissing (crate + "/${folder}")) [
          "fuzz"
          "tests"
        ]
      )
    );
  workspace = sourceOf [
    (code ../services)
    ../.cargo
    ../deny.toml
    ../.rustfmt.toml
    # Tests read the manifests that we ship, and hold the reference against the code.
    ../services/README.md
    ../k8s
  ];

  common = {
    pname = "ping-pong";
    inherit (manifest.workspace.package) version;
    strictDeps = true;
  };

  # One call for each program: cargo joins the features of what it builds
  # together, and a program alone would find its dependencies built otherwise.
  programDeps = craneLib.buildDepsOnly (
    common
    // static
    // {
      pname = "ping-pong-programs";
      src = workspace;
      buildPhaseCargoCommand = lib.concatMapStringsSep "\n" (
        name: "cargoWithProfile build --locked -p ${name}"
      ) programs;
      # Tests are a check's business.
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
        # Cargo minds a default member that is not there.
        postPatch = "sed -i '/^default-members/d' Cargo.toml";
        # Not --locked: the lock names the crates that this source leaves out.
        # Versions can't move, since the vendored ones are all that there is.
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

  # Checks do what `cargo test` does at a desk: the same profile, the same libc.
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
  # Copies, since e2e looks for the services beside itself.
  together = pkgs.runCommand "ping-pong" { } (
    "mkdir -p $out/bin\n"
    + lib.concatMapStrings (name: "cp ${lib.getExe built.${name}} $out/bin/\n") programs
  );
  checkArgs = checkArgs // {
    cargoArtifacts = craneLib.buildDepsOnly checkArgs;
  };
}
