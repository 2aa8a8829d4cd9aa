/**
 * The archive that simulated machines install from: numbered builds, one of which is `prod`. What apt would print
 * about a machine is derived from it and from the machine's packages.
 */
import { createHash } from 'node:crypto'

export const PACKAGES = ['app', 'base'] as const

/** dpkg's word for it; a package is in between while dpkg is at it, and stays so when dpkg was cut off. */
export type Installed = { version: string; state: 'installed' | 'unpacked' | 'half-configured' }
export type Packages = Map<string, Installed>
export type Upgrade = { readonly name: string; readonly from: string; readonly version: string }

type Build = { readonly versions: Map<string, string>; date: number; readonly wantsReboot: boolean }

/** What an archive of this package and version holds. */
export function archiveBytes(name: string, version: string): Buffer {
  return Buffer.from(`archive of ${name} ${version}\n`)
}

const hashes = new Map<string, string>()
export function archiveHash(name: string, version: string): string {
  const key = `${name} ${version}`
  const known = hashes.get(key) ?? createHash('sha256').update(archiveBytes(name, version)).digest('hex')
  hashes.set(key, known)
  return known
}

/** Owns the builds. */
export class Repository {
  prod = '700'
  readonly #builds = new Map<string, Build>()

  constructor(now: number) {
    this.publish(now, false)
  }

  /** A new build becomes `prod`; the ones before stay as they are. */
  publish(now: number, wantsReboot: boolean): void {
    this.prod = String(Number(this.prod) + 1)
    const versions = new Map(PACKAGES.map((name) => [name, `${this.prod}.0`]))
    this.#builds.set(this.prod, { versions, date: now - (now % 1000), wantsReboot })
  }

  /** Someone replaces a package inside a build, which nobody should. */
  tamper(name: string, now: number): void {
    const build = this.#build(this.prod)
    build.versions.set(name, `${build.versions.get(name) ?? this.prod}.1`)
    build.date = now - (now % 1000)
  }

  wantsReboot(build: string): boolean {
    return this.#build(build).wantsReboot
  }

  /** The file that an update leaves in the lists. */
  release(build: string): string {
    const date = new Date(this.#build(build).date).toUTCString()
    return `Suite: ${build}\nDate: ${date}\nVersion: ${build === 'prod' ? this.prod : build}\n`
  }

  upgrades(build: string, packages: Packages): Upgrade[] {
    return [...this.#build(build).versions].flatMap(([name, version]) => {
      const now = packages.get(name)
      return now === undefined || isOlder(now.version, version) ? [{ name, from: now?.version ?? '', version }] : []
    })
  }

  #build(build: string): Build {
    const found = this.#builds.get(build === 'prod' ? this.prod : build)
    if (found === undefined) throw new Error(`there is no build ${build} in the simulated archive`)
    return found
  }
}

/** Versions here are numbers with dots. */
function isOlder(left: string, right: string): boolean {
  const [a, b] = [left, right].map((text) => text.split('.').map(Number))
  for (let index = 0; index < 4; index += 1) {
    const difference = (a?.[index] ?? -1) - (b?.[index] ?? -1)
    if (difference !== 0) return difference < 0
  }
  return false
}

/** `apt-get -s dist-upgrade`. */
export function simulationText(upgrades: readonly Upgrade[]): string {
  const lines = upgrades.flatMap(({ name, from, version }) => [
    `Inst ${name} [${from}] (${version} repo [amd64])`,
    `Conf ${name} (${version} repo [amd64])`,
  ])
  return `${upgrades.length} upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n${lines.map((line) => `${line}\n`).join('')}`
}

/** `apt-cache show`. */
export function archivesText(upgrades: readonly Upgrade[]): string {
  return upgrades
    .map(({ name, version }) => {
      const size = archiveBytes(name, version).length
      return `Package: ${name}\nVersion: ${version}\nArchitecture: amd64\nSize: ${size}\nSHA256: ${archiveHash(name, version)}\n`
    })
    .join('\n')
}

/** `/var/lib/dpkg/status`. */
export function statusText(packages: Packages): string {
  return [...packages]
    .map(
      ([name, { version, state }]) =>
        `Package: ${name}\nStatus: install ok ${state}\nArchitecture: amd64\nVersion: ${version}\n`,
    )
    .join('\n')
}
