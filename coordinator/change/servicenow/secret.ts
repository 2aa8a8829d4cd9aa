/** The secret with which smith shows who it is, read anew each time it is needed; what keeps it from that is a failure. */
import { ServiceNowError } from './failures.ts'

export function secretReader(read: (path: string) => string): (path: string) => string {
  return (path) => {
    try {
      return read(path)
    } catch (error) {
      const problem = error instanceof Error ? error.message : String(error)
      const message = `the secret of ServiceNow (change.servicenow.secret_file) can't be used: ${problem}`
      throw new ServiceNowError('auth', message, { cause: error })
    }
  }
}
