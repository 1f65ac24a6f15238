# OCI images from scratch: one static binary, run by a numeric user, nothing else.
{
  lib,
  pkgs,
  rust,
}:
let
  inherit (rust.manifest.workspace) package;

  # Without `acceptCert`, pinger trusts the system's roots, and these are they.
  # The file alone, without the rest of its package.
  roots = pkgs.runCommand "ca-bundle.crt" { } ''
    cp ${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt $out
  '';

  image =
    name: env:
    let
      program = rust.programs.${name};
    in
    # No tag is given, so it is a hash of the content: an unchanged service keeps
    # its tag.
    (pkgs.dockerTools.buildLayeredImage {
      inherit name;
      compressor = "zstd";
      # Fixed, so that the same source gives the same bytes.
      created = "1970-01-01T00:00:01Z";
      config = {
        Entrypoint = [ (lib.getExe program) ];
        Env = env;
        # A number, since runAsNonRoot cannot verify a name.
        User = "65532:65532";
        Labels = lib.mapAttrs' (key: lib.nameValuePair "org.opencontainers.image.${key}") {
          title = name;
          inherit (program.meta) description;
          # The hash of the sources, not git's commit: a commit that changes
          # no source changes no image. A release writes the commit, and the
          # repository that it ran in, on the index that it publishes.
          revision = lib.substring 0 32 (baseNameOf (builtins.unsafeDiscardStringContext program.src));
          licenses = package.license;
          inherit (package) version;
        };
      };
    }).overrideAttrs
      # What `zstd` reads its level from. A fifth smaller than by gzip.
      { ZSTD_CLEVEL = 19; };
in
lib.mapAttrs image {
  pinger = [ "SSL_CERT_FILE=${roots}" ];
  ponger = [ ];
}
