# nix fmt: every language of the tree in its own formatter.
{ pkgs, rust, ... }:
pkgs.writeShellApplication {
  name = "fmt";
  runtimeInputs = [
    rust.channel.default
    pkgs.findutils
    pkgs.gnugrep
    pkgs.nixfmt
    pkgs.shfmt
  ];
  text = ''
    # The top level, from wherever it is called.
    cd "''${PRJ_ROOT:?is set by nix fmt}"
    cargo fmt --all
    nix/tests/lint --write
  '';
}
