/**
 * A real filesystem of a few megabytes, to be filled to the last byte: a tmpfs, which only root can mount. It is gone
 * with the test.
 */
import { spawnSync } from 'node:child_process'
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, statSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'

/** Why a test that needs one can't be run here; false where it can. */
export const NO_SMALL_DISK: string | false =
  process.geteuid?.() === 0 ? false : 'only root can mount a small filesystem to be filled'

export type SmallDisk = {
  readonly dir: string
  /** No more than so many bytes are left; none when it is left out. */
  readonly fill: (bytes?: number) => void
  /** As `fill`, and what is given back in the meantime is taken again, until `free`. */
  readonly keepFull: () => void
  readonly free: () => void
}

/** At `dir`, or in a folder of its own. */
export function mountSmallDisk(t: Test, megabytes: number, at?: string): SmallDisk {
  const dir = at ?? mkdtempSync(join(tmpdir(), 'smith-small-'))
  mkdirSync(dir, { recursive: true })
  must('mount', '-t', 'tmpfs', '-o', `size=${megabytes}m,mode=755`, 'tmpfs', dir)
  t.teardown(() => {
    must('umount', '--lazy', dir)
    rmSync(dir, { recursive: true })
  })
  const filler = join(dir, 'filler')
  let again: NodeJS.Timeout | undefined
  return {
    dir,
    fill: (bytes = 0) => {
      fill(filler)
      truncateSync(filler, Math.max(0, statSync(filler).size - bytes))
    },
    keepFull: () => {
      again = setInterval(() => fill(filler), 5)
      fill(filler)
    },
    free: () => {
      clearInterval(again)
      rmSync(filler)
    },
  }
}

function must(program: string, ...args: string[]): void {
  const { status, stderr } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} failed: ${stderr}`)
}

const CHUNKS = [1_048_576, 4096, 1]
function fill(path: string): void {
  for (const size of CHUNKS) {
    try {
      for (;;) appendFileSync(path, Buffer.alloc(size))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
    }
  }
}
