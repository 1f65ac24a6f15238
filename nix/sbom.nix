# What each program is made of, as CycloneDX: the crates that cargo would build
# for it, from the lock, with their licences and checksums.
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
