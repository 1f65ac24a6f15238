# The bill of materials of each program, as CycloneDX: its crates as in Cargo.lock,
# with licences and checksums.
{
  lib,
  pkgs,
  rust,
}:
rust.craneLib.mkCargoDerivation (
  rust.common
  // {
    pname = "ping-pong-sbom";
    src = rust.workspace;
    cargoArtifacts = null;
    doInstallCargoArtifacts = false;
    nativeBuildInputs = [ pkgs.cargo-cyclonedx ];
    buildPhaseCargoCommand = ''
      cargo cyclonedx --format json --spec-version 1.5 --target ${rust.target}
    '';
    installPhaseCommand = ''
      mkdir $out
      for program in ${lib.escapeShellArgs (lib.attrNames rust.programs)}; do
        cp "services/$program/$program.cdx.json" $out/
      done
    '';
  }
)
