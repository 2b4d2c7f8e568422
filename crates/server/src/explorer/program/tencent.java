import com.tencentcloudapi.common.CommonClient;
import com.tencentcloudapi.common.Credential;
import com.tencentcloudapi.common.profile.ClientProfile;
import com.tencentcloudapi.common.profile.HttpProfile;

public class Example {
    public static void main(String[] arguments) throws Exception {
        HttpProfile http = new HttpProfile();
        http.setProtocol(«scheme://»);
        http.setEndpoint(«host»);
        ClientProfile profile = new ClientProfile();
        profile.setHttpProfile(http);
        Credential keys = new Credential(System.getenv("ACCESS_KEY"), System.getenv("SECRET_KEY"));
        CommonClient trtc = new CommonClient("trtc", «version», keys, «region», profile);
        System.out.println(trtc.call(«action», «json»));
    }
}
