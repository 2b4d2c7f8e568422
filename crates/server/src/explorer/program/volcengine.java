import com.volcengine.model.ApiInfo;
import com.volcengine.model.Credentials;
import com.volcengine.model.ServiceInfo;
import com.volcengine.model.response.RawResponse;
import com.volcengine.service.BaseServiceImpl;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.http.NameValuePair;
import org.apache.http.message.BasicNameValuePair;

public class Example extends BaseServiceImpl {
    Example() {
        super(service(), Map.of("call", call()));
    }

    static ServiceInfo service() {
        Credentials keys = new Credentials(«region», "rtc");
        keys.setAccessKeyID(System.getenv("ACCESS_KEY"));
        keys.setSecretAccessKey(System.getenv("SECRET_KEY"));
        Map<String, Object> info = new HashMap<>();
        info.put("Credentials", keys);
        info.put("Scheme", «scheme»);
        info.put("Host", «host»);
        info.put("Header", new ArrayList<>());
        info.put("ConnectionTimeout", 10_000);
        info.put("SocketTimeout", 10_000);
        return new ServiceInfo(info);
    }

    static ApiInfo call() {
        Map<String, Object> info = new HashMap<>();
        info.put("Method", «method»);
        info.put("Path", "/");
        info.put("Query", List.of(pair("Action", «action»), pair("Version", «version»)));
        return new ApiInfo(info);
    }

    static NameValuePair pair(String name, String value) {
        return new BasicNameValuePair(name, value);
    }

    public static void main(String[] arguments) throws Exception {
        Example rtc = new Example();
        RawResponse answer = «java-call»;
        if (answer.getException() != null) {
            throw answer.getException();
        }
        System.out.println(new String(answer.getData(), StandardCharsets.UTF_8));
        rtc.destroy();
    }
}
