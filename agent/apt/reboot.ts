/**
 * Whether a reboot is due, and with which kernel the machine should come back. Used by both halves: for the plan,
 * the hello, the result, and before and after the reboot of a run. Reads only.
 */
import { compareNaturally } from '../../protocol/natural-order.ts'
import { type Disk, listNames } from '../disk/disk.ts'
import { type AptTarget, pathOn } from './command.ts'

type Ports = { readonly disk: Disk; readonly machine: { readonly kernel: string } }

/** `/run/reboot-required` or another file of the configuration exists, or the newest kernel is not the running one. */
export function isRebootDue(ports: Ports, target: AptTarget, rebootWhen: readonly string[]): boolean {
  const files = ['/run/reboot-required', ...rebootWhen]
  if (files.some((path) => ports.disk.factsOf(pathOn(target, path)) !== null)) return true
  // A private root runs on the machine's kernel, whatever it has in its own /boot.
  if (target.root !== null) return false
  const newest = newestKernel(ports)
  return newest !== null && newest !== ports.machine.kernel
}

/**
 * The release of the newest kernel in /boot, of the running one's flavour (amd64, cloud-amd64, ...) when that is
 * among them; null when there is none, as in a container.
 */
export function newestKernel(ports: Ports): string | null {
  const releases = listNames(ports.disk, '/boot').flatMap((name) => {
    const release = /^vmlinuz-(.+)$/.exec(name)?.[1]
    return release === undefined || /\.(?:dpkg-[a-z]+|old|bak|efi\.signed)$/.test(release) ? [] : [release]
  })
  const flavour = flavourOf(ports.machine.kernel)
  const alike = releases.filter((release) => flavourOf(release) === flavour)
  return (alike.length > 0 ? alike : releases).toSorted(compareNaturally).at(-1) ?? null
}

/** `6.1.0-32-cloud-amd64` is of flavour `cloud-amd64`. */
function flavourOf(release: string): string {
  return release.replace(/^[0-9][0-9.+~a-z]*(?:-(?:[0-9][0-9.]*(?:(?:deb|bpo)[0-9.]+)?|rc[0-9]+))*-?/, '')
}
